package role

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

const (
	// DefaultWindow is how many tasks of a coordinator are under way at once.
	DefaultWindow = 1024
)

// CoordinatorConfig configures a [Coordinator].
type CoordinatorConfig struct {
	ID identity.ID // the coordinator's own; required
	// Tasks are what is to be done. Those without an ID get one of the job's: with converge.Config.Checkpoints, a
	// coordinator that starts again with the same tasks before they have all ended goes on with the job,
	// and submits none of them twice.
	Tasks []task.Spec
	// Verifier tells whether results are signed by those who held the tasks; required.
	Verifier EndingVerifier
	Window   int // tasks under way at once; 0 means DefaultWindow
	// Deadline bounds the whole job, from its first start on: what has not ended by then is cancelled. 0
	// means none.
	Deadline time.Duration
	// Progress, if set, is called on the agent's goroutine when something has changed; it must not
	// block.
	Progress func(Progress)
	Now      func() time.Time // the time; nil means time.Now
}

// EndingVerifier reports why an agent has not ended a task as its record says; a [task.Verifier] does.
type EndingVerifier interface {
	VerifyEnding(t *task.Task) error
}

// Progress counts a coordinator's tasks.
type Progress struct {
	Total     int
	Submitted int
	Completed int
	Failed    int // failed, cancelled, refused, or completed without a valid signature
}

// Done reports whether every task has ended.
func (p Progress) Done() bool { return p.Completed+p.Failed == p.Total }

// Outcome is how one task ended.
type Outcome struct {
	Task task.Task
	// Signed says that the agent that held the task has signed the result for what was submitted.
	Signed bool
	Err    error // nil exactly if the task completed and Signed
}

// ErrUnsigned says that the agent that held a task has not signed the result that its record has.
var ErrUnsigned = errors.New("no valid signature of the agent that did the task")

// Coordinator submits tasks and collects their results, each signed by the worker that it is of.
type Coordinator struct {
	config CoordinatorConfig
	done   chan struct{}

	// Only the agent's goroutine uses these.
	job       job
	changed   bool // the job, since the last checkpoint
	next      int  // index of the next task to submit
	byID      map[string]int
	waiting   map[string]*waiting // submitted, not settled
	again     []converge.Decision // submissions that found no room, cancellations that went wrong
	away      bool                // the tasks could not be reached in the last turn
	unsettled map[string]*waiting // completed by an agent whose key is not known yet
	deadline  time.Time
	overdue   bool

	mu       sync.Mutex
	outcomes []Outcome
	progress Progress
}

// waiting is a task that is under way, or whose claimant is not known yet.
type waiting struct {
	record *task.Task // once the task is completed
	until  time.Time  // when not knowing the claimant counts as final
}

const (
	retryAfter  = time.Second // before what could not be done is tried again
	keyPatience = time.Minute // for the key of an agent that has completed a task
)

// NewCoordinator checks the configuration and returns a coordinator.
func NewCoordinator(c CoordinatorConfig) (*Coordinator, error) {
	if c.ID.IsZero() {
		return nil, errors.New("role.CoordinatorConfig.ID: required")
	}
	if c.Verifier == nil {
		return nil, errors.New("role.CoordinatorConfig.Verifier: required")
	}
	if c.Window < 0 || c.Deadline < 0 {
		return nil, errors.New("role.CoordinatorConfig: Window and Deadline must not be negative")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	k := &Coordinator{
		config:    c,
		done:      make(chan struct{}),
		byID:      map[string]int{},
		waiting:   map[string]*waiting{},
		unsettled: map[string]*waiting{},
		outcomes:  make([]Outcome, len(c.Tasks)),
		progress:  Progress{Total: len(c.Tasks)},
	}
	k.config.Tasks = slices.Clone(c.Tasks)
	ids := map[string]bool{}
	for _, spec := range c.Tasks {
		if spec.ID != "" && ids[spec.ID] {
			return nil, fmt.Errorf("role.CoordinatorConfig.Tasks: two tasks have the ID %.80q", spec.ID)
		}
		ids[spec.ID] = true
	}
	var err error
	if k.job, err = newJob(c.Tasks); err != nil {
		return nil, err
	}
	return k, nil
}

// Done is closed when every task has ended.
func (k *Coordinator) Done() <-chan struct{} { return k.done }

// Outcomes returns how the tasks ended, in the order of the configuration. Those that have not ended
// are zero.
func (k *Coordinator) Outcomes() []Outcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Outcome(nil), k.outcomes...)
}

// Progress returns the counts so far.
func (k *Coordinator) Progress() Progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.progress
}

// OnStart implements converge.Starter.
func (k *Coordinator) OnStart(context.Context) error {
	k.begin()
	if len(k.config.Tasks) == 0 {
		close(k.done)
	}
	return nil
}

// Decide implements converge.Agent.
func (k *Coordinator) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	before := k.Progress()
	k.away = false
	for _, f := range t.Failures {
		k.failed(f)
	}
	for _, ended := range t.Ended {
		k.end(ended)
	}
	var decisions []converge.Decision
	if !t.Draining {
		decisions = append(k.cancelOverdue(), k.judgeAgain()...)
		decisions = append(decisions, k.submit()...) // last, into the room that the others make
	}
	k.announce(before)
	return decisions, nil
}

// failed deals with what could not be done in the last turn.
func (k *Coordinator) failed(f converge.Failure) {
	switch d := f.Decision.(type) {
	case converge.SubmitTask: // one that only found no room, or nobody, is tried again
		noRoom := errors.Is(f.Err, task.ErrFull) || errors.Is(f.Err, converge.ErrTooMany)
		away := !noRoom && isAway(d.Spec, f.Err)
		if k.away = k.away || away; noRoom || away {
			k.again = append(k.again, d)
		} else {
			k.settle(Outcome{Task: task.Task{Spec: d.Spec, Status: task.Failed, Error: f.Err.Error()}, Err: f.Err})
		}
	case converge.CancelTask: // one that has ended meanwhile is in Turn.Ended
		if errors.Is(f.Err, task.ErrNotFound) {
			k.settle(Outcome{Task: task.Task{Spec: k.spec(d.TaskID)}, Err: f.Err})
		} else if !errors.Is(f.Err, task.ErrTerminal) {
			k.again = append(k.again, d)
		}
	}
}

// refusals are the answers to a submission that another attempt would not change.
var refusals = []error{
	task.ErrInvalid, task.ErrExists, task.ErrNotMember, task.ErrUnsigned, task.ErrForged, task.ErrRecord,
	converge.ErrNotConfigured, remote.ErrNotAllowed, remote.ErrUnsupported,
}

// isAway reports whether a submission found the tasks out of reach, so that it is to be repeated later. It may have
// been made all the same: with an idempotency key, that does no harm.
func isAway(spec task.Spec, err error) bool {
	if errors.Is(err, remote.ErrUnavailable) {
		return true
	}
	refused := slices.ContainsFunc(refusals, func(refusal error) bool { return errors.Is(err, refusal) })
	return spec.IdempotencyKey != "" && !refused
}

func (k *Coordinator) spec(id string) task.Spec { return k.config.Tasks[k.byID[id]] }

// end settles a task that has ended. What its claimant has signed may be under a key that has yet to become
// known: then it is looked at again later.
func (k *Coordinator) end(t task.Task) {
	w := k.waiting[t.ID]
	if w == nil {
		return
	}
	if t.Status != task.Completed {
		k.settle(Outcome{Task: t, Err: fmt.Errorf("%v: %s", t.Status, t.Error)})
		return
	}
	if w.record == nil {
		w.record, w.until = &t, k.config.Now().Add(keyPatience)
	}
	k.judge(w)
}

// judge settles a completed task as its claimant's signature says.
func (k *Coordinator) judge(w *waiting) {
	err := k.config.Verifier.VerifyEnding(w.record)
	if errors.Is(err, identity.ErrUnknown) && k.config.Now().Before(w.until) {
		k.unsettled[w.record.ID] = w
		return
	}
	delete(k.unsettled, w.record.ID)
	if err != nil {
		k.settle(Outcome{Task: *w.record, Err: fmt.Errorf("%w: %w", ErrUnsigned, err)})
		return
	}
	k.settle(Outcome{Task: *w.record, Signed: true})
}

// judgeAgain looks again at the tasks whose claimant was not known.
func (k *Coordinator) judgeAgain() []converge.Decision {
	for _, w := range k.unsettled {
		k.judge(w)
	}
	if len(k.unsettled) == 0 {
		return nil
	}
	return []converge.Decision{converge.Wake{After: retryAfter}}
}

// submit keeps the window full, and tries again what is to be tried again: where the tasks could not be
// reached, one of them, to see.
func (k *Coordinator) submit() []converge.Decision {
	if k.away && len(k.again) > 0 {
		first := k.again[0]
		k.again = k.again[1:]
		return []converge.Decision{first, converge.Wake{After: retryAfter}}
	}
	decisions := k.again
	k.again = nil
	for k.next < len(k.config.Tasks) && len(k.waiting) < k.config.Window && !k.overdue {
		spec := k.config.Tasks[k.next]
		k.next++
		k.waiting[spec.ID] = &waiting{}
		decisions = append(decisions, converge.SubmitTask{Spec: spec})
	}
	k.mu.Lock()
	k.progress.Submitted = k.next
	k.mu.Unlock()
	return decisions
}

// cancelOverdue cancels what has not ended by the deadline.
func (k *Coordinator) cancelOverdue() []converge.Decision {
	if k.deadline.IsZero() || k.overdue {
		return nil
	}
	if rest := k.deadline.Sub(k.config.Now()); rest > 0 {
		return []converge.Decision{converge.Wake{After: rest}}
	}
	k.overdue = true
	for _, d := range k.again {
		if d, ok := d.(converge.SubmitTask); ok {
			k.settle(Outcome{Task: task.Task{Spec: d.Spec}, Err: errOverdue})
		}
	}
	k.again = nil
	var decisions []converge.Decision
	for _, spec := range k.config.Tasks[:k.next] {
		if w := k.waiting[spec.ID]; w != nil && w.record == nil {
			decisions = append(decisions, converge.CancelTask{TaskID: spec.ID})
		}
	}
	for _, spec := range k.config.Tasks[k.next:] {
		k.settle(Outcome{Task: task.Task{Spec: spec}, Err: errOverdue})
	}
	return decisions
}

var errOverdue = errors.New("not submitted: the coordinator's deadline was over")

func (k *Coordinator) settle(o Outcome) {
	i, ours := k.byID[o.Task.ID]
	k.mu.Lock()
	defer k.mu.Unlock()
	if !ours || k.outcomes[i].Task.ID != "" { // not ours, or settled
		return
	}
	delete(k.waiting, o.Task.ID)
	k.outcomes[i] = o
	if o.Err == nil {
		k.progress.Completed++
	} else {
		k.progress.Failed++
	}
}

// announce tells of progress since before.
func (k *Coordinator) announce(before Progress) {
	now := k.Progress()
	if now == before {
		return
	}
	if k.config.Progress != nil {
		k.config.Progress(now)
	}
	if now.Done() {
		k.job.done, k.changed = true, true
		close(k.done)
	}
}
