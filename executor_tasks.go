package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

// ExecuteTasks carries out several decisions about tasks, all of one kind, in their order, and returns
// what became of each. If the tasks are elsewhere, that takes one request for many of them.
func (e *StandardExecutor) ExecuteTasks(ctx context.Context, decisions []Decision) []error {
	errs := make([]error, len(decisions))
	var ops []remote.Op
	var places []int
	for i, d := range decisions {
		op, err := e.operation(d, len(ops))
		if err != nil {
			errs[i] = err
			continue
		}
		ops, places = append(ops, op), append(places, i)
	}
	for i, r := range e.doSigned(ctx, ops) {
		errs[places[i]] = e.finish(&ops[i], r)
		if ops[i].Kind == remote.OpSubmit {
			e.env.trail.named(places[i], ops[i].Spec.ID)
		}
	}
	return errs
}

// doSigned is do for operations that the agent has to sign, if it signs any.
func (e *StandardExecutor) doSigned(ctx context.Context, ops []remote.Op) []remote.Result {
	errs := e.sign(ops)
	if errs == nil {
		return e.do(ctx, ops)
	}
	results := make([]remote.Result, len(ops))
	for i, err := range errs {
		if results[i].Err = err; err == nil {
			results[i] = e.do(ctx, ops[i:i+1])[0]
		}
	}
	return results
}

// sign signs submissions and endings; other operations need no signature. errs is nil if all were signed.
func (e *StandardExecutor) sign(ops []remote.Op) (errs []error) {
	if e.env.Signer == nil || len(ops) == 0 {
		return nil
	}
	switch ops[0].Kind {
	case remote.OpSubmit:
		specs := make([]*task.Spec, len(ops))
		for i := range ops {
			specs[i] = &ops[i].Spec
		}
		return e.env.Signer.SignSpecs(specs...)
	case remote.OpReport, remote.OpFail:
		endings, places := make([]task.Ending, len(ops)), make([]*task.Ending, len(ops))
		for i := range ops {
			endings[i] = ops[i].Ending()
			places[i] = &endings[i]
		}
		errs = e.env.Signer.SignEndings(places...)
		for i := range ops {
			ops[i].Reason, ops[i].Proof = endings[i].Reason, endings[i].Proof
		}
	}
	return errs
}

// operation returns what a decision wants done to a task, unless it is clear from here that it cannot be.
// before is the number of those like it that are to be done before it.
func (e *StandardExecutor) operation(d Decision, before int) (remote.Op, error) {
	if e.env.Tasks == nil {
		return remote.Op{}, fmt.Errorf("%s: %w: the runtime has no task manager (Config.Tasks)", d.Kind(), ErrNotConfigured)
	}
	switch d := d.(type) {
	case SubmitTask:
		return e.submission(d.Spec)
	case ClaimTask:
		return remote.Op{Kind: remote.OpClaim, TaskID: d.TaskID}, e.roomForClaim(before)
	case CancelTask:
		return remote.Op{Kind: remote.OpCancel, TaskID: d.TaskID}, nil
	case ReportTask:
		if d.ContentType == "" {
			d.ContentType = message.DefaultContentType
		}
		claim, err := e.claimOf(d.TaskID)
		return remote.Op{Kind: remote.OpReport, Claim: claim, Result: d.Result, ResultType: d.ContentType}, err
	case FailTask:
		claim, err := e.claimOf(d.TaskID)
		return remote.Op{Kind: remote.OpFail, Claim: claim, Reason: d.Reason, Permanent: d.Permanent}, err
	}
	return remote.Op{}, notConfigured(d)
}

// do carries out operations, all of one kind.
func (e *StandardExecutor) do(ctx context.Context, ops []remote.Op) []remote.Result {
	if b, ok := e.env.Tasks.(batcher); ok && len(ops) > 0 {
		return b.Do(ctx, ops)
	}
	results := make([]remote.Result, len(ops))
	for i := range ops {
		results[i] = e.doOne(ctx, &ops[i])
	}
	return results
}

func (e *StandardExecutor) doOne(ctx context.Context, op *remote.Op) (r remote.Result) {
	switch op.Kind {
	case remote.OpSubmit:
		r.Task, r.Err = e.env.Tasks.Submit(ctx, op.Spec)
	case remote.OpClaim:
		r.Claim, r.Task, r.Err = e.env.Tasks.Claim(ctx, op.TaskID, e.route())
	case remote.OpReport, remote.OpFail:
		r.Task, r.Err = e.env.Tasks.End(ctx, op.Ending())
	case remote.OpRelease:
		r.Task, r.Err = e.env.Tasks.Release(ctx, op.Claim)
	case remote.OpCancel:
		r.Task, r.Err = e.env.Tasks.Cancel(ctx, op.TaskID, e.env.Agent)
	}
	return r
}

// finish takes in what came of an operation.
func (e *StandardExecutor) finish(op *remote.Op, r remote.Result) error {
	switch op.Kind {
	case remote.OpSubmit:
		e.submitted(op.Spec.ID, r)
	case remote.OpClaim:
		return e.won(r)
	case remote.OpReport, remote.OpFail:
		e.settled(op.Claim, r.Err)
	}
	return r.Err
}

// submission enters the task as outstanding before it exists, so that its end cannot be missed.
func (e *StandardExecutor) submission(spec task.Spec) (remote.Op, error) {
	spec.Submitter = e.env.Agent
	if spec.ID == "" {
		spec.ID = spec.NewID()
	}
	return remote.Op{Kind: remote.OpSubmit, Spec: spec}, e.expect(spec.ID, spec.IdempotencyKey != "")
}

// expect enters a task as outstanding. One with an idempotency key may be that already.
func (e *StandardExecutor) expect(id string, keyed bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.outstanding[id]; known && keyed {
		return nil
	} else if known {
		return fmt.Errorf("submit_task %q: %w", id, task.ErrExists)
	}
	if len(e.outstanding) >= MaxOutstandingTasks {
		return fmt.Errorf("submit_task: %w: %d tasks of this agent have not ended", ErrTooMany, MaxOutstandingTasks)
	}
	if e.outstanding == nil {
		e.outstanding = map[string]bool{}
	}
	e.outstanding[id] = false
	return nil
}

// submitted takes in how a submission has ended. One that was made before, and whose answer was lost,
// may be of a task that has ended.
func (e *StandardExecutor) submitted(id string, r remote.Result) {
	e.mu.Lock()
	confirmed, known := e.outstanding[id]
	if r.Err == nil && known {
		e.outstanding[id] = true
	} else if !confirmed {
		delete(e.outstanding, id)
	}
	e.mu.Unlock()
	if r.Err == nil {
		e.Observe(r.Task)
	}
}

// Observe takes in a change of a task: the end of one that was submitted here waits for Collect, and that
// of one that is held here stops the tools that work on it. It does not block.
func (e *StandardExecutor) Observe(t task.Task) {
	if !t.Status.Terminal() {
		return
	}
	if t.Claimant == e.env.Agent {
		e.stopCalls(&t)
	}
	if t.Submitter != e.env.Agent {
		return
	}
	e.mu.Lock()
	_, ours := e.outstanding[t.ID]
	if ours {
		delete(e.outstanding, t.ID)
		e.ended = append(e.ended, t)
	}
	e.mu.Unlock()
	if ours {
		e.env.Notify()
	}
}

// stopCalls stops the tools that work on a task that has ended. The claim stays until the agent knows.
func (e *StandardExecutor) stopCalls(t *task.Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.held[t.ID]; h != nil && h.claim.Epoch == t.Epoch {
		h.end(task.ErrTerminal)
	}
}

// won takes in what came of a claim. A claim that the agent holds already, it has not won.
func (e *StandardExecutor) won(r remote.Result) error {
	if r.Err != nil {
		return r.Err
	}
	if !e.hold(r) {
		return fmt.Errorf("claim_task %.80q: %w: this agent holds it", r.Claim.TaskID, task.ErrNotPending)
	}
	e.env.Notify()
	return nil
}

func (e *StandardExecutor) hold(r remote.Result) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := r.Claim.TaskID
	if h := e.held[id]; h != nil && h.claim.Epoch == r.Claim.Epoch {
		return false
	}
	if e.held == nil {
		e.held = map[string]*heldClaim{}
	}
	e.held[id] = &heldClaim{claim: r.Claim, pool: r.Task.Pool, ended: make(chan struct{})}
	e.claimed = append(e.claimed, r.Task)
	return true
}

// roomForClaim makes sure of room for one more claim after others, forgetting those that have run out.
func (e *StandardExecutor) roomForClaim(others int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.held)+others < MaxHeldClaims {
		return nil
	}
	now := time.Now()
	for id, h := range e.held {
		if h.calls == 0 && now.After(h.claim.Expires) {
			delete(e.held, id)
		}
	}
	if len(e.held)+others >= MaxHeldClaims {
		return fmt.Errorf("claim_task: %w: the agent holds %d tasks", ErrTooMany, MaxHeldClaims)
	}
	return nil
}

// claimOf returns the claim on a task that the agent holds.
func (e *StandardExecutor) claimOf(id string) (task.Claim, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.held[id]; h != nil {
		return h.claim, nil
	}
	return task.Claim{}, fmt.Errorf("task %.80q: %w", id, ErrNotHeld)
}

// settled lets a claim go unless the tasks could not be asked, and stops the tools that work on it.
func (e *StandardExecutor) settled(c task.Claim, err error) {
	if err != nil && !task.IsLost(err) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.held[c.TaskID]; h != nil && h.claim.Epoch == c.Epoch {
		h.end(cmp.Or(err, task.ErrTerminal))
		delete(e.held, c.TaskID)
	}
}

// releaseClaims gives back the tasks that the agent holds, so that others need not wait for the claims
// to run out. Where nobody can be reached to give them back to, they have to.
func (e *StandardExecutor) releaseClaims(ctx context.Context) error {
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	var ops []remote.Op
	for _, h := range held {
		ops = append(ops, remote.Op{Kind: remote.OpRelease, Claim: h.claim})
	}
	var errs []error
	for _, r := range e.do(ctx, ops) {
		if r.Err != nil && !errors.Is(r.Err, task.ErrClaimLost) && !errors.Is(r.Err, task.ErrTerminal) {
			errs = append(errs, r.Err)
		}
	}
	if _, elsewhere := e.env.Tasks.(binder); elsewhere && len(errs) > 0 {
		e.env.Logger.WarnContext(ctx, "cannot give tasks back; their claims run out", "agent", e.env.Name, "tasks", len(errs), "error", errs[0])
		return nil
	}
	return errors.Join(errs...)
}
