package llm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// Agent lets a model decide. It claims the tasks of its capabilities, and holds one conversation with the model about
// each, and one for each peer that writes to it.
//
// The model thinks beside the agent's turns: Decide hands over what has come, and collects what the model wants done.
// While it thinks, the agent renews its claims. It is a converge.Agent, Starter, Stopper, Waker and Checkpointer.
type Agent struct {
	config Config
	log    *slog.Logger
	ledger *ledger
	tools  map[string]known // by their names for models
	byName map[string]identity.ID
	names  map[identity.ID]string
	offset uint64
	wake   func()

	ctx      context.Context // of the model's calls; ends with the agent
	cancel   context.CancelCauseFunc
	thinking sync.WaitGroup
	asking   atomic.Int64 // calls under way, those included that are no longer wanted

	// Only the agent's goroutine uses these.
	tasks    map[string]*conversation // by the task's ID
	threads  map[identity.ID]*conversation
	subtasks map[string]*conversation
	running  map[string]*slot // tool calls, by CallID
	calls    uint64           // tool calls so far
	sends    []sending        // of the last turn
	claiming int              // claims of the last turn
	unproven []unproven
	draining bool
	asked    uint64   // thoughts so far
	note     keptTurn // of this turn, for replays
	turns    uint64   // of which there is a note

	mu       sync.Mutex
	thoughts []thought
	stats    Stats
}

// known is a tool that the model may call.
type known struct {
	name  string
	shown Tool
}

// sending is a message of which it is not known yet whether it went out.
type sending struct {
	draft message.Draft
	slot  *slot
}

// unproven is a result whose signer is not known yet.
type unproven struct {
	task  task.Task
	until time.Time
}

// New checks the configuration and returns an agent. It asks no model.
func New(c Config) (*Agent, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("llm.Config.%w", err)
	}
	c.setDefaults()
	a := &Agent{
		config: c, log: c.Logger.With("agent", c.Name), ledger: newLedger(c.TaskBudget, c.DayBudget, c.Price), wake: func() {},
		tools: map[string]known{}, byName: map[string]identity.ID{}, names: map[identity.ID]string{},
		tasks: map[string]*conversation{}, threads: map[identity.ID]*conversation{}, subtasks: map[string]*conversation{},
		running: map[string]*slot{},
	}
	for _, b := range c.ID[:8] {
		a.offset = a.offset<<8 | uint64(b)
	}
	for _, p := range c.Peers {
		a.byName[p.Name], a.names[p.ID] = p.ID, p.Name
	}
	if c.Journal != nil || c.Recall != nil {
		a.ledger.doings = &doings{recalls: c.Recall != nil, held: map[uint64]reservation{}}
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	return a, a.addTools()
}

func (a *Agent) addTools() error {
	if len(a.config.Allowlist) == 0 {
		return nil
	}
	if a.config.Tools == nil && a.config.Recall == nil {
		return errors.New("llm.Config.Tools: required with Allowlist")
	}
	names, err := nameTools(a.config.Allowlist, builtins)
	if err != nil {
		return fmt.Errorf("llm.Config.Allowlist: %w", err)
	}
	for short, name := range names {
		if a.config.Recall != nil { // no model is shown it
			a.tools[short] = known{name: name}
			continue
		}
		shown, err := toolFor(a.config.Tools, name, short)
		if err != nil {
			return fmt.Errorf("llm.Config.Allowlist: %w", err)
		}
		a.tools[short] = known{name, shown}
	}
	return nil
}

// Capabilities returns what a runtime has to announce for the agent.
func (a *Agent) Capabilities() []discovery.Capability {
	var all []discovery.Capability
	for _, name := range a.Kinds() {
		all = append(all, discovery.Capability{Name: name})
	}
	return all
}

// Kinds returns the kinds of tasks that the agent works on, for converge.Config.TaskKinds.
func (a *Agent) Kinds() []string {
	var names []string
	for name := range a.config.Capabilities {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetWake implements converge.Waker.
func (a *Agent) SetWake(wake func()) { a.wake = wake }

// Introduce adds a peer, as Config.Peers does. It has to be called before the agent runs.
func (a *Agent) Introduce(p Peer) error {
	all := a.config
	all.Peers = append(slices.Clone(all.Peers), p)
	if err := all.checkPeers(); err != nil {
		return err
	}
	a.config.Peers = all.Peers
	a.byName[p.Name], a.names[p.ID] = p.ID, p.Name
	return nil
}

// OnStart implements converge.Starter.
func (a *Agent) OnStart(context.Context) error {
	if len(a.config.Capabilities) == 0 && len(a.config.Peers) == 0 {
		return errors.New("an agent without capabilities and peers has nothing to do")
	}
	return nil
}

// Checkpoint implements converge.Checkpointer: what the day and the conversations have used.
func (a *Agent) Checkpoint() ([]byte, error) { return a.ledger.encode(), nil }

// Restore implements converge.Checkpointer. Conversations begin anew; what they have used counts.
func (a *Agent) Restore(state []byte) error { return a.ledger.decode(state) }

var errStopping = errors.New("the agent is stopping")

// OnStop implements converge.Stopper: it ends the calls of the model and waits for them.
func (a *Agent) OnStop(ctx context.Context) error {
	a.cancel(errStopping)
	if s := a.Stats(); s.Calls > 0 {
		a.log.Info("model was asked", "calls", s.Calls, "failed", s.Failures, "tokens_in", s.InputTokens, "tokens_out", s.OutputTokens,
			"conversations", s.Conversations, "refused", s.Refused)
	}
	done := make(chan struct{})
	go func() { a.thinking.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the model: %w", context.Cause(ctx))
	}
}

// turn is the work of one Decide.
type turn struct {
	now       time.Time
	decisions []converge.Decision
	err       error // of a replay that is another one than the past
}

func (t *turn) do(d converge.Decision) { t.decisions = append(t.decisions, d) }

// Decide implements converge.Agent.
func (a *Agent) Decide(_ context.Context, in converge.Turn) ([]converge.Decision, error) {
	t := &turn{now: in.Began}
	if t.now.IsZero() {
		t.now = time.Now()
	}
	if err := a.beginTurn(); err != nil {
		return nil, err
	}
	a.draining = in.Draining
	a.claiming = 0
	a.takeFailures(t, in.Failures)
	a.confirmSends()
	a.takeResults(in.Results)
	a.takeEnded(in.Ended, t.now)
	a.takeClaimed(t, in.Claimed)
	a.takeMessages(in.Messages, t.now)
	a.takeThoughts(t)
	a.keepTime(t)
	a.advance(t)
	if !in.Draining {
		a.claim(t, in.Tasks)
	}
	if len(a.sends) > 0 { // the next turn tells what became of them
		a.wake()
	}
	if pause := a.pause(t.now); pause > 0 {
		t.do(converge.Wake{After: pause})
	}
	a.endTurn()
	if t.err != nil {
		return nil, t.err
	}
	return t.decisions, nil
}

// claim asks for as many tasks as there is room for. Agents begin at different places of the list.
func (a *Agent) claim(t *turn, tasks []task.Task) {
	if len(tasks) == 0 || a.hung() || a.ledger.exhausted() {
		return
	}
	for i := range tasks {
		if len(a.tasks)+a.claiming >= a.config.Concurrency {
			return
		}
		pending := tasks[(a.offset+uint64(i))%uint64(len(tasks))]
		if _, serves := a.config.Capabilities[pending.Kind]; serves && a.tasks[pending.ID] == nil {
			a.claiming++
			t.do(converge.ClaimTask{TaskID: pending.ID})
		}
	}
}

// hung reports whether there is a provider that does not heed its context.
func (a *Agent) hung() bool {
	if a.config.Recall == nil {
		a.note.Hung = a.asking.Load() >= int64(2*(a.config.Concurrency+a.config.MaxThreads))
	}
	return a.note.Hung
}

// allTasks returns the conversations about tasks, in an order that is the same in replays.
func (a *Agent) allTasks() (all []*conversation) {
	for _, id := range slices.Sorted(maps.Keys(a.tasks)) {
		all = append(all, a.tasks[id])
	}
	return all
}

// allThreads returns the conversations with peers, likewise.
func (a *Agent) allThreads() (all []*conversation) {
	for _, c := range a.threads {
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y *conversation) int { return strings.Compare(x.key, y.key) })
	return all
}

// keepTime ends what is overdue, and renews claims.
func (a *Agent) keepTime(t *turn) {
	for _, c := range a.allTasks() {
		switch {
		case !t.now.Before(c.deadline):
			a.fail(t, c, fmt.Sprintf("the task's time of %v is over", a.config.TaskTimeout))
		case !t.now.Before(c.renewAt):
			c.renewAt = t.now.Add(c.ttl / renewals)
			t.do(converge.RenewClaim{TaskID: c.task.ID})
		}
		if !c.waitUntil.IsZero() && !t.now.Before(c.waitUntil) {
			c.waitUntil = time.Time{}
			a.nudge(t, c, "No answer has come. Go on without it.")
		}
	}
	for _, c := range a.allThreads() {
		if c.idle() && t.now.Sub(c.touched) >= a.config.ThreadIdle {
			delete(a.threads, c.peer)
			a.ledger.forget(c.key)
		}
	}
}

// pause returns when the next turn is due even if nothing comes; 0 for never.
func (a *Agent) pause(now time.Time) time.Duration {
	var next time.Time
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, c := range a.tasks {
		sooner(c.deadline)
		sooner(c.renewAt)
		sooner(c.waitUntil)
	}
	if len(a.unproven) > 0 {
		sooner(now.Add(time.Second))
	}
	if a.ledger.exhausted() {
		sooner(now.Add(a.ledger.untilTomorrow()))
	}
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

// fail ends a conversation, and its task with the reason.
func (a *Agent) fail(t *turn, c *conversation, reason string) {
	if c.over {
		return
	}
	a.log.Warn("conversation failed", "task", c.taskID(), "peer", a.nameOf(c.peer), "reason", reason)
	a.count(func(s *Stats) { s.FailedConversations++ })
	if c.task != nil {
		t.do(converge.FailTask{TaskID: c.task.ID, Reason: publicReason(reason)})
		a.drop(t, c)
		return
	}
	a.quit(t, c) // the peer is not heard until the conversation is forgotten
	c.touched = t.now
}

// drop forgets a conversation about a task that is no longer ours.
func (a *Agent) drop(t *turn, c *conversation) {
	a.quit(t, c)
	if a.tasks[c.task.ID] == c {
		delete(a.tasks, c.task.ID)
	}
}

// quit ends what a conversation has under way: the model's thought, its subtasks. Tools end with the claim.
func (a *Agent) quit(t *turn, c *conversation) {
	c.over, c.due, c.late, c.slots = true, false, nil, nil
	c.thinking = false
	c.stop()
	for _, id := range slices.Sorted(maps.Keys(c.subtasks)) {
		delete(a.subtasks, id)
		t.do(converge.CancelTask{TaskID: id})
	}
	clear(c.subtasks)
	for id, s := range a.running {
		if s.c == c {
			delete(a.running, id)
		}
	}
}
