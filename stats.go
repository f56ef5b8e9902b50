package converge

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
)

// Stats counts what a runtime has done, stage by stage. Reasons, scopes and kinds are keys; IDs are not.
// Packages observe turns it into metrics.
type Stats struct {
	Signed    uint64              // messages signed
	Batches   uint64              // signatures that several of them share
	Sealed    uint64              // of the signed ones, those whose bodies are sealed
	Verified  uint64              // frames that passed verification
	Opened    uint64              // of them, those that were sealed
	Refused   map[string]uint64   // frames that did not, by message.Reason
	Lost      uint64              // frames that the transport's queue dropped
	Hooks     transport.HookStats // messages that hooks dropped or failed on
	Ingress   map[string]uint64   // messages that rate limits dropped on the way in, by scope
	Egress    map[string]uint64   // messages that rate limits refused on the way out, by scope
	Inbox     int                 // messages that wait now
	Overflow  uint64              // messages that the inbox dropped
	Withdrawn map[string]uint64   // verified messages that waited until their key did not count, by message.Reason
	Turns     uint64
	Failed    uint64 // turns that ended in an error or a panic
	Decisions map[string]DecisionStats
	Tools     tool.Stats
	TurnTimes Histogram // how long Decide took
	ToolTimes Histogram // how long tool calls took, waiting included
}

// Histogram is a distribution of durations.
type Histogram = stat.HistogramSnapshot

// DecisionStats counts the decisions of one kind.
type DecisionStats struct {
	Done   uint64
	Failed uint64
}

type executorStats struct {
	tools     tool.Stats
	limited   map[string]uint64
	toolTimes Histogram
}

func (e *StandardExecutor) stats() executorStats {
	return executorStats{tools: e.guard.Stats(), limited: e.limited.Snapshot(), toolTimes: e.toolTimes.Snapshot()}
}

// Stats returns the counts so far. It may be called at any time, also after Run.
func (r *Runtime) Stats() Stats {
	x := r.executor.stats()
	s := Stats{
		Signed:    r.signer.Signed(),
		Batches:   r.signer.Batches(),
		Sealed:    r.signer.Sealed(),
		Verified:  r.verifier.Verified(),
		Opened:    r.verifier.Opened(),
		Refused:   r.verifier.Refused(),
		Hooks:     r.hooked.Stats(),
		Ingress:   map[string]uint64{},
		Egress:    x.limited,
		Inbox:     r.inbox.Len(),
		Overflow:  r.inbox.Dropped(),
		Withdrawn: r.withdrawnCounts(),
		Turns:     r.turns.Load(),
		Failed:    r.errored.Load(),
		Decisions: r.decided.snapshot(),
		Tools:     x.tools,
		TurnTimes: r.turnTimes.Snapshot(),
		ToolTimes: x.toolTimes,
	}
	if d, ok := r.config.Transport.(transport.Dropper); ok {
		s.Lost = d.Dropped()
	}
	for _, h := range r.config.Hooks {
		if limit, ok := h.(*ratelimit.Hook); ok {
			for scope, n := range limit.Dropped() {
				s.Ingress[scope] += n
			}
		}
	}
	return s
}

// ownKinds are the kinds of decisions that this version carries out.
var ownKinds = []string{
	SendMessage{}.Kind(), SubmitTask{}.Kind(), ClaimTask{}.Kind(), ReportTask{}.Kind(), FailTask{}.Kind(),
	CancelTask{}.Kind(), RenewClaim{}.Kind(), InvokeTool{}.Kind(), Wake{}.Kind(), JoinPool{}.Kind(), LeavePool{}.Kind(), CreatePool{}.Kind(),
}

// laterKinds are the kinds of those whose protocols come later.
var laterKinds = []string{
	SubmitBid{}.Kind(), Vote{}.Kind(), Propose{}.Kind(),
	AcceptProposal{}.Kind(), RejectProposal{}.Kind(), Delegate{}.Kind(), RevokeDelegation{}.Kind(),
}

func builtin(kind string) bool {
	return slices.Contains(ownKinds, kind) || slices.Contains(laterKinds, kind)
}

// kindLabel bounds the label values that an agent can make: kinds of other packages share one.
func kindLabel(kind string) string {
	if builtin(kind) {
		return kind
	}
	return "custom"
}

// decisionCounts counts decisions by kind.
type decisionCounts struct {
	mu     sync.Mutex
	byKind map[string]DecisionStats
}

func (c *decisionCounts) add(kind string, err error) {
	if err == nil {
		c.addMany(kind, 1, 0)
	} else {
		c.addMany(kind, 0, 1)
	}
}

func (c *decisionCounts) addMany(kind string, done, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKind == nil {
		c.byKind = map[string]DecisionStats{}
	}
	kind = kindLabel(kind)
	counts := c.byKind[kind]
	counts.Done += uint64(done)
	counts.Failed += uint64(failed)
	c.byKind[kind] = counts
}

func (c *decisionCounts) snapshot() map[string]DecisionStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.byKind)
}

// levelOf says how loud a failed decision is: losing a race for a task is everyday business.
func levelOf(err error) slog.Level {
	for _, race := range []error{task.ErrNotPending, task.ErrClaimLost, task.ErrTerminal, errTooLate} {
		if errors.Is(err, race) {
			return slog.LevelDebug
		}
	}
	return slog.LevelWarn
}

// State is a phase in the life of a [Runtime].
type State int32

// The states, in their order.
const (
	StateNew State = iota
	StateStarting
	StateRunning
	StateDraining
	StateStopped
)

// String returns the state in lower case.
func (s State) String() string {
	names := [...]string{"new", "starting", "running", "draining", "stopped"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Health is what a runtime says of itself.
type Health struct {
	Name  string
	State State
	limit time.Duration // of a turn
	// Busy says for how long the current turn has been running; 0 between turns. Much more than
	// Config.DecideTimeout means that the agent does not heed its context.
	Busy  time.Duration
	Inbox int // messages that wait
}

// Stuck reports whether the agent has been at one turn for more than twice the time that it may take.
func (h Health) Stuck() bool { return h.Busy > 2*h.limit }

// Ready reports whether the agent receives messages and takes turns.
func (r *Runtime) Ready() bool { return State(r.state.Load()) == StateRunning }

// Health returns the runtime's state.
func (r *Runtime) Health() Health {
	h := Health{Name: r.config.Name, State: State(r.state.Load()), Inbox: r.inbox.Len(), limit: r.config.DecideTimeout}
	if started := r.turnStarted.Load(); started != 0 {
		h.Busy = time.Since(time.Unix(0, started))
	}
	return h
}
