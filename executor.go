package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// Errors of decisions, to be compared with [errors.Is].
var (
	// ErrNotConfigured says that the runtime has nothing that carries out such a decision.
	ErrNotConfigured = errors.New("not configured")
	// ErrNotHeld says that the agent does not hold the task that a decision is about.
	ErrNotHeld = errors.New("task is not held by this agent")
	// ErrTooMany says that a bound of the executor is reached; later the decision may succeed.
	ErrTooMany = errors.New("too many at once")
)

// Bounds of a [StandardExecutor]. A decision beyond one fails with [ErrTooMany].
const (
	DefaultMaxCalls     = 256     // tool calls that run or whose result the agent has not seen
	MaxHeldClaims       = 4096    // tasks that an agent holds
	MaxOutstandingTasks = 1 << 20 // tasks that an agent submitted and that have not ended
)

// Handler carries out decisions of a custom kind. It runs on the agent's goroutine and has to return
// when ctx ends.
type Handler func(ctx context.Context, d Decision) error

// ExecutorConfig says what an agent's decisions may do. The zero value sends messages and runs no tool.
type ExecutorConfig struct {
	// Tools holds the tools there are; ToolAllowlist names those that this agent may run. nil and empty
	// lists allow none, and there is no wildcard.
	Tools         *tool.Registry
	ToolAllowlist []string
	// ToolTimeout bounds a tool call; 0 means tool.DefaultTimeout. A tool's own timeout applies too if
	// it is shorter.
	ToolTimeout time.Duration
	// MaxCalls bounds the tool calls that run at once or whose results wait; 0 means DefaultMaxCalls.
	MaxCalls int
	// Limiter, if set, limits what the agent sends. Its sender bucket is that of this agent; agents may
	// share a Limiter.
	Limiter *ratelimit.Limiter
	// Approver is asked before each tool call. nil refuses tools whose annotations say that they destroy.
	Approver tool.Approver
	// Handlers carry out decisions of custom kinds, by Kind. The kinds of this package cannot be
	// replaced.
	Handlers map[string]Handler
}

// ExecutorEnv is what a [StandardExecutor] acts on. A [Runtime] provides its own.
type ExecutorEnv struct {
	Agent identity.ID                                // who acts; required
	Name  string                                     // for logs
	Send  func(context.Context, message.Draft) error // signs and sends; required
	// SendAll sends several, and returns what became of each, or nil if all went out; nil means one Send
	// after the other.
	SendAll func(context.Context, []message.Draft) []error
	Tasks   Tasks        // nil if the agent has no tasks
	Signer  *task.Signer // signs what the agent submits and how it ends tasks; nil means that nobody does
	Route   task.Profile // which tasks the agent may claim
	Pools   Pools        // nil if the agent has no pools
	Notify  func()       // called when something waits for Collect; must not block
	// Seen returns where all comes from that the agent has been shown so far; nil means that nobody knows.
	Seen   func() taint.Set
	Logger *slog.Logger // nil means slog.Default

	trail *trail // of the runtime; may be nil
}

// StandardExecutor carries out the decisions of one agent: it sends under the egress limit, runs tools
// under the guard and beside the agent's turns, and keeps the agent's claims. Execute is called from
// one goroutine; the other methods are safe for concurrent use.
type StandardExecutor struct {
	env      ExecutorEnv
	guard    *tool.Guard
	limiter  *ratelimit.Limiter
	handlers map[string]Handler
	maxCalls int

	callsCtx context.Context // ends with the executor
	cancel   context.CancelCauseFunc
	calls    sync.WaitGroup

	mu          sync.Mutex
	running     int
	results     []ToolResult
	claimed     []task.Task
	ended       []task.Task
	held        map[string]*heldClaim
	outstanding map[string]bool // tasks submitted here that have not ended: whether they are known to exist

	limited   stat.Vec[ratelimit.Scope]
	toolTimes stat.Histogram
}

// heldClaim is a claim and the number of tool calls that work on it.
type heldClaim struct {
	claim task.Claim
	calls int
	pool  string        // of the task
	over  error         // why the claim is no longer worth anything, though the agent does not know yet
	ended chan struct{} // closed when that is so
}

// NewStandardExecutor checks the configuration and returns an executor. Close it.
func NewStandardExecutor(c ExecutorConfig, env ExecutorEnv) (*StandardExecutor, error) {
	if env.Agent.IsZero() || env.Send == nil {
		return nil, errors.New("converge.ExecutorEnv: Agent and Send are required")
	}
	if env.Signer != nil && env.Signer.ID() != env.Agent {
		return nil, fmt.Errorf("converge.ExecutorEnv.Signer: it is of agent %s, and Agent is %s", env.Signer.ID().Short(), env.Agent.Short())
	}
	if c.MaxCalls < 0 {
		return nil, errors.New("converge.ExecutorConfig.MaxCalls: negative")
	}
	for kind, handler := range c.Handlers {
		if builtin(kind) || handler == nil {
			return nil, fmt.Errorf("converge.ExecutorConfig.Handlers[%q]: the kind is one of this package, or the handler is nil", kind)
		}
	}
	env.Logger = cmp.Or(env.Logger, slog.Default())
	env.Tasks = orNil(env.Tasks)
	if env.SendAll == nil {
		env.SendAll = oneByOne(env.Send)
	}
	if env.Notify == nil {
		env.Notify = func() {}
	}
	if env.Seen == nil {
		env.Seen = func() taint.Set { return taint.Of(taint.Many) }
	}
	guard, err := tool.NewGuard(tool.GuardConfig{
		Tools:     c.Tools,
		Allowlist: c.ToolAllowlist,
		Timeout:   c.ToolTimeout,
		Approver:  c.Approver,
		Agent:     env.Name,
		AgentID:   env.Agent.String(),
		Logger:    env.Logger,
	})
	if err != nil {
		return nil, err
	}
	e := &StandardExecutor{
		env:      env,
		guard:    guard,
		limiter:  c.Limiter,
		handlers: c.Handlers,
		maxCalls: cmp.Or(c.MaxCalls, DefaultMaxCalls),
	}
	e.callsCtx, e.cancel = context.WithCancelCause(context.Background())
	return e, nil
}

// Execute carries out one decision. Tool calls it only starts.
func (e *StandardExecutor) Execute(ctx context.Context, d Decision) error {
	switch d := d.(type) {
	case SendMessage:
		return e.send(ctx, d.Draft)
	case InvokeTool:
		return e.invoke(d)
	case RenewClaim:
		return e.renewClaim(ctx, d.TaskID)
	case SubmitTask, ClaimTask, ReportTask, FailTask, CancelTask:
		return e.ExecuteTasks(ctx, []Decision{d})[0]
	case JoinPool, LeavePool, CreatePool:
		return e.executePool(ctx, d)
	}
	handler, ok := e.handlers[d.Kind()]
	if !ok {
		return notConfigured(d)
	}
	return runHandler(ctx, handler, d)
}

func notConfigured(d Decision) error {
	if slices.Contains(ownKinds, d.Kind()) {
		return fmt.Errorf("%s: the decision is a %T: return the type of this package, and no pointer to it", d.Kind(), d)
	}
	if builtin(d.Kind()) {
		return fmt.Errorf("%s: %w: this version has no such protocol", d.Kind(), ErrNotConfigured)
	}
	return fmt.Errorf("decision of kind %.40q: %w: no handler for it (ExecutorConfig.Handlers)", d.Kind(), ErrNotConfigured)
}

func runHandler(ctx context.Context, h Handler, d Decision) (err error) {
	defer panics.Catch(&err, "handler of "+d.Kind())
	return h(ctx, d)
}

func (e *StandardExecutor) send(ctx context.Context, d message.Draft) error {
	if err := e.limit(d.Topics); err != nil {
		return err
	}
	return e.env.Send(ctx, d)
}

// limit takes the tokens of one message out of the egress buckets.
func (e *StandardExecutor) limit(topics []message.Topic) error {
	if e.limiter == nil {
		return nil
	}
	if r := e.limiter.Take(e.env.Agent, topics); !r.OK {
		e.limited.Inc(r.Scope)
		return fmt.Errorf("send_message: %w", r.Err())
	}
	return nil
}

// SendAll carries out the SendMessage decisions of several drafts in their order, each under the egress
// limit, so that they can share a signature. It returns what became of each, or nil if all went out.
func (e *StandardExecutor) SendAll(ctx context.Context, drafts []message.Draft) []error {
	if e.limiter == nil {
		return e.env.SendAll(ctx, drafts)
	}
	return sendPassed(ctx, drafts, e.env.SendAll, func(d *message.Draft) error { return e.limit(d.Topics) })
}

// sendPassed sends the drafts that pass, which may change them, and returns what became of each, or nil if
// all went out.
func sendPassed(ctx context.Context, drafts []message.Draft, sendAll func(context.Context, []message.Draft) []error, pass func(*message.Draft) error) []error {
	var errs []error
	passed := drafts[:0] // in place: none overtakes the one that is looked at
	for i := range drafts {
		err := pass(&drafts[i])
		if err == nil {
			passed = append(passed, drafts[i])
			continue
		}
		if errs == nil {
			errs = make([]error, len(drafts))
		}
		errs[i] = err
	}
	sent := sendAll(ctx, passed)
	if errs == nil {
		return sent
	}
	for i := range errs { // those that did not pass were not sent: the answers close up
		if errs[i] == nil && len(sent) > 0 {
			errs[i], sent = sent[0], sent[1:]
		}
	}
	return errs
}

func oneByOne(send func(context.Context, message.Draft) error) func(context.Context, []message.Draft) []error {
	return func(ctx context.Context, drafts []message.Draft) []error {
		errs := make([]error, len(drafts))
		for i, d := range drafts {
			errs[i] = send(ctx, d)
		}
		return errs
	}
}

// Collect returns, once, what has happened beside the turns.
func (e *StandardExecutor) Collect() (results []ToolResult, claimed, ended []task.Task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	results, claimed, ended = e.results, e.claimed, e.ended
	e.results, e.claimed, e.ended = nil, nil, nil
	return results, claimed, ended
}

// Busy reports whether tool calls run or something waits for Collect.
func (e *StandardExecutor) Busy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running+len(e.results)+len(e.claimed)+len(e.ended) > 0
}

// toolGrace is how long Close waits for tools to end once their context has ended.
const toolGrace = 2 * time.Second

// Close cancels the tool calls that run, waits for them to be given up and, for two seconds at most, to
// end, and gives back the tasks that the agent still holds. Closing twice is fine.
func (e *StandardExecutor) Close(ctx context.Context) error {
	e.cancel(errors.New("the agent is stopping"))
	e.calls.Wait()
	grace, cancel := context.WithTimeout(ctx, toolGrace)
	defer cancel()
	if err := e.guard.Wait(grace); err != nil {
		e.env.Logger.WarnContext(ctx, "tools do not heed the end of their context", "agent", e.env.Name, "error", err)
	}
	return e.releaseClaims(ctx)
}
