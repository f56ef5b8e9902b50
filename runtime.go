package converge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// Runtime runs one agent. Its methods are safe for concurrent use.
type Runtime struct {
	config   Config
	log      *slog.Logger
	signer   *message.Signer
	proofs   *task.Signer // nil on the fallback path
	verifier *message.Verifier
	marks    *message.Marks // nil without Config.Marks
	states   *checkpoints   // nil without Config.Checkpoints
	hooked   *transport.Hooked
	executor executor
	inbox    *Inbox
	schedule *Scheduler
	profile  task.Profile
	pools    *ownPools
	trail    *trail // nil without Config.Audit
	state    atomic.Int32

	registered atomic.Pointer[renewal] // of the descriptor; nil while there is none

	turnStarted atomic.Int64 // when the current turn began, in nanoseconds since 1970; 0 between turns

	giveUp   context.CancelCauseFunc // ends Run; Run's goroutine only
	stopping <-chan struct{}         // closed once the agent is to stop; Run's goroutine only
	failures []Failure               // of the last turn; Run's goroutine only
	drafts   []message.Draft         // memory of executeAll; empty between turns
	seen     taint.Set               // of all turns so far; Run's goroutine only
	backoff  time.Duration

	recalled  stat.Vec[message.Reason]
	turns     stat.Counter
	errored   stat.Counter
	decided   decisionCounts
	turnTimes stat.Histogram
}

// New checks the configuration and returns a runtime. It starts nothing; see [Runtime.Run].
func New(c Config) (*Runtime, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.setDefaults()
	r := &Runtime{config: c, log: c.Logger.With("agent", c.Name), inbox: NewInbox(c.Inbox), schedule: NewScheduler()}
	var err error
	r.signer, err = message.NewSigner(message.SignerConfig{
		Identity: c.Identity, Network: c.Network, Mode: c.Signature, MaxSize: c.Verifier.MaxSize,
		Recipients: c.Recipients, Seal: c.Seal,
	})
	if err != nil {
		return nil, err
	}
	if c.Marks != nil {
		r.marks, err = message.NewMarks(message.MarksConfig{
			Store: c.Marks, Network: c.Network, Agent: c.Identity.ID(), Logger: r.log, Now: c.Verifier.Now,
		})
		if err != nil {
			return nil, err
		}
		c.Verifier.Marks = r.marks
	}
	if r.verifier, err = message.NewVerifier(c.Verifier); err != nil {
		return nil, err
	}
	if r.trail, err = newTrail(&c, r.log); err != nil {
		return nil, err
	}
	c.Hooks = r.trail.watch(c.Hooks)
	r.hooked, err = transport.NewHooked(transport.HookedConfig{
		Transport:      c.Transport,
		Signer:         r.signer,
		Verifier:       r.verifier,
		Hooks:          c.gated(),
		UnverifiedDrop: r.trail.onRefused(c.RuntimeHooks.UnverifiedDrop),
		Logger:         r.log,
		ReceiveUnsafe:  c.ReceiveUnsafe,
	})
	if err != nil {
		return nil, err
	}
	r.profile = profileOf(c)
	r.pools = newOwnPools(r)
	if r.executor, err = r.newExecutor(); err != nil {
		return nil, err
	}
	if err := r.bindTasks(); err != nil {
		return nil, err
	}
	r.states = newCheckpoints(&c, r.log)
	r.handOutWake()
	return r, nil
}

func profileOf(c Config) task.Profile {
	p := task.Profile{Agent: c.Identity.ID(), Topics: c.Topics, Kinds: c.TaskKinds}
	for _, capability := range c.Capabilities {
		p.Capabilities = append(p.Capabilities, capability.Name)
	}
	return p
}

// executor is what carries out decisions: a [StandardExecutor], or the fallback path.
type executor interface {
	Execute(ctx context.Context, d Decision) error
	SendAll(ctx context.Context, drafts []message.Draft) []error
	ExecuteTasks(ctx context.Context, decisions []Decision) []error
	Collect() (results []ToolResult, claimed, ended []task.Task)
	Observe(t task.Task)
	Busy() bool
	Close(ctx context.Context) error
	stats() executorStats
}

func (r *Runtime) newExecutor() (executor, error) {
	c := r.config
	if c.Executor == nil && c.Tasks == nil && c.Pools == nil {
		return &fallback{send: r.send, sendAll: r.sendAll, preSend: c.RuntimeHooks.FallbackPreSend}, nil
	}
	if c.Executor == nil {
		c.Executor = &ExecutorConfig{}
	}
	var err error
	if r.proofs, err = task.NewSigner(c.Identity, c.Network); err != nil {
		return nil, err
	}
	return NewStandardExecutor(*c.Executor, ExecutorEnv{
		Signer:  r.proofs,
		Agent:   c.Identity.ID(),
		Name:    c.Name,
		Send:    r.send,
		SendAll: r.sendAll,
		Tasks:   c.Tasks,
		Route:   r.profile,
		Pools:   r.pools.orNil(),
		Notify:  r.schedule.Wake,
		Seen:    func() taint.Set { return r.seen },
		trail:   r.trail,
		Logger:  c.Logger,
	})
}

func (r *Runtime) send(ctx context.Context, d message.Draft) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.config.SendTimeout, errSendTimeout)
	defer cancel()
	_, err := r.hooked.Send(ctx, d)
	return err
}

// Send signs a draft as the agent and sends it, outside of the agent's turns: for what a process has to say in the
// name of one of its agents. It goes through the hooks, and counts against no egress limit. It works while Run runs. It
// has a receipt, but a log that is broken does not hold it back: it may be what revokes a key.
func (r *Runtime) Send(ctx context.Context, d message.Draft) error {
	var id message.ID
	if r.trail != nil && d.Signed == nil {
		d.Signed = &id
	}
	err := r.send(ctx, d)
	r.trail.spoke(&d, err)
	return err
}

// sendAll sends within one send timeout for all.
func (r *Runtime) sendAll(ctx context.Context, drafts []message.Draft) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.config.SendTimeout, errSendTimeout)
	defer cancel()
	return r.hooked.SendAll(ctx, drafts)
}

var errSendTimeout = errors.New("the recipient's queue stayed full for the whole send timeout")

// ID returns the agent's ID.
func (r *Runtime) ID() identity.ID { return r.config.Identity.ID() }

// Run runs the agent until ctx ends. Then it stops receiving, finishes the turn that is under way but claims no task, gives the
// agent what has already come and waits for its tools, for up to Config.DrainTimeout, withdraws from discovery, and returns nil. It
// returns an error if it cannot start, if the transport fails, or if its checkpoint is another's. It can be called once.
func (r *Runtime) Run(ctx context.Context) error {
	if !r.state.CompareAndSwap(int32(StateNew), int32(StateStarting)) {
		return errors.New("run agent: Run was called before")
	}
	err := r.checkKey()
	if err == nil {
		err = r.openMarks(ctx)
	}
	if err == nil {
		if err = r.config.Transport.Start(ctx); err == nil {
			err = r.runStarted(ctx)
			r.config.Transport.Close()
		}
		r.closeMarks(ctx)
	}
	r.state.Store(int32(StateStopped))
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) { // stopped while it started
		return nil
	}
	return fmt.Errorf("run agent %s: %w", r.config.Name, err)
}

// runStarted is Run once the transport works. It keeps little on the stack: an idle agent waits in loop.
func (r *Runtime) runStarted(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r.giveUp, r.stopping = cancel, ctx.Done()
	coming := r.startReceiving(ctx, cancel)
	defer coming.end()
	defer r.tendSealing(ctx)()
	leave, err := r.join(ctx)
	if err != nil {
		coming.stop()
		return errors.Join(err, r.close(ctx))
	}
	turns, end := outlast(ctx, r.config.DrainTimeout)
	defer end()
	return r.finish(turns, r.loop(ctx, turns), leave, coming)
}

// outlast returns a context that ends d after ctx does.
func outlast(ctx context.Context, d time.Duration) (context.Context, func()) {
	longer, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer end()
		_ = sleep.For(longer, d)
	})
	return longer, func() { stop(); end() }
}

func (r *Runtime) openMarks(ctx context.Context) error {
	if r.marks == nil {
		return nil
	}
	return r.marks.Open(ctx)
}

// closeMarks writes down what the agent has accepted. If that fails, its next run refuses more than it
// would have to.
func (r *Runtime) closeMarks(ctx context.Context) {
	if r.marks == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.config.DrainTimeout)
	defer cancel()
	if err := r.marks.Close(ctx); err != nil {
		r.log.Warn("replay marks are not exact", "error", err)
	}
}

// prepare is what comes before the agent receives anything.
func (r *Runtime) prepare(ctx context.Context) error {
	for _, p := range r.config.Topics {
		if err := r.hooked.Subscribe(ctx, p); err != nil {
			return err
		}
	}
	if err := r.states.restore(ctx); err != nil {
		return err
	}
	if r.states.restored() { // nobody knows what an earlier run was shown
		r.seen = taint.Of(taint.Many)
	}
	if starter, ok := r.config.Agent.(Starter); ok {
		if err := r.call(ctx, "OnStart", starter.OnStart); err != nil {
			return err
		}
	}
	return r.recordStart(ctx)
}

// join makes the agent known to others and others' tasks known to it. Leaving has two steps: leave the
// network, and, once drained, the tasks.
func (r *Runtime) join(ctx context.Context) (leave membership, err error) {
	if leave.network, err = r.register(ctx); err != nil {
		return membership{}, err
	}
	if leave.pools, err = r.pools.attach(ctx); err != nil {
		leave.network()
		return membership{}, err
	}
	leave.tasks = r.attach()
	r.state.Store(int32(StateRunning))
	r.log.Info("agent is running", "id", r.ID())
	return leave, nil
}

// membership undoes what join did.
type membership struct{ network, tasks, pools func() }

// finish ends the agent in order: nothing comes any more, what has come is dealt with, and only then does
// the agent withdraw, so that what it says to the end can be verified. What it holds is given back.
func (r *Runtime) finish(ctx context.Context, cause error, leave membership, coming reception) error {
	r.state.Store(int32(StateDraining))
	defer r.trail.stopped(cause)
	coming.stop()
	defer coming.end()
	r.drain(ctx)
	leave.network()
	leave.tasks()
	leave.pools()
	err := r.close(ctx)
	if errors.Is(cause, errTransport) || errors.Is(cause, ErrSuperseded) {
		return errors.Join(cause, err)
	}
	return err
}

var errTransport = errors.New("the transport failed")

// reception is what moves messages to the agent. Ending it has two steps: from stop on, nothing comes but the answers to
// what the agent asks while it finishes what it has begun; from end on, nothing at all.
type reception struct{ stop, end func() }

// startReceiving has messages come until ctx ends, and answers from then on. fail ends ctx.
func (r *Runtime) startReceiving(ctx context.Context, fail context.CancelCauseFunc) reception {
	var receiving sync.WaitGroup
	stopped := make(chan struct{})
	answers, end := context.WithCancel(context.WithoutCancel(ctx))
	receiving.Go(func() {
		r.receive(ctx, fail)
		close(stopped)
		r.receiveAnswers(answers)
	})
	return reception{
		stop: func() { fail(nil); <-stopped },
		end:  func() { end(); receiving.Wait() },
	}
}

// receive moves messages into the inbox until ctx ends.
func (r *Runtime) receive(ctx context.Context, fail context.CancelCauseFunc) {
	for {
		if err := r.hooked.Deliver(ctx, r.take); err != nil {
			if ctx.Err() == nil {
				fail(fmt.Errorf("%w: %w", errTransport, err))
			}
			return
		}
	}
}

// take puts a message into the inbox. One that the inbox's policy drops is dealt with.
func (r *Runtime) take(ctx context.Context, m *message.Message) error {
	if r.isLateAnswer(m) {
		return nil
	}
	r.trail.accepted(m)
	err := r.inbox.Put(ctx, m)
	if errors.Is(err, transport.ErrQueueFull) {
		r.trail.dropped(m, "inbox_full")
		return nil
	}
	if err == nil {
		r.schedule.Wake()
	}
	return err
}

// attach has the agent woken by changes of tasks that concern it.
func (r *Runtime) attach() (detach func()) {
	if r.config.Tasks == nil {
		return func() {}
	}
	return r.config.Tasks.Attach(func(t task.Task) {
		if t.Status == task.Pending && r.sees(t) {
			r.schedule.Wake()
		}
		r.executor.Observe(t)
	})
}

// loop runs turns until ctx ends, and returns why it ended. A turn that has begun has the context of turns, which lasts
// longer: what an agent was asked in it is answered.
func (r *Runtime) loop(ctx, turns context.Context) error {
	if ctx.Err() == nil { // or it was stopped while it started
		r.turnIfDue(turns, true)
	}
	for {
		if r.config.TickEvery > 0 {
			r.schedule.WakeAfter(r.config.TickEvery)
		}
		timed, err := r.schedule.Wait(ctx)
		if err != nil || ctx.Err() != nil {
			r.schedule.Stop()
			return context.Cause(ctx)
		}
		r.turnIfDue(turns, timed)
	}
}

// turnIfDue runs a turn if there is something to show, or if one is due anyway.
func (r *Runtime) turnIfDue(ctx context.Context, timed bool) {
	r.pools.keepUp(ctx)
	timed = timed || r.pools.isNews()
	if t := r.assemble(false); timed || !t.isEmpty() {
		r.turn(ctx, t)
	}
}

// drain gives the agent what has come already, until nothing is left or the time for turns is over.
func (r *Runtime) drain(ctx context.Context) {
	defer r.schedule.Stop()
	for r.inbox.Len() > 0 || r.executor.Busy() {
		if t := r.assemble(true); !t.isEmpty() {
			r.turn(ctx, t)
			continue
		}
		if _, err := r.schedule.Wait(ctx); err != nil {
			r.log.Warn("drain timeout: giving up on what is left", "messages", r.inbox.Len(), "after", r.config.DrainTimeout)
			return
		}
	}
}

// minClose is what ending tools and giving back claims may take, however short the drain timeout is.
const minClose = 3 * time.Second

// close ends the executor and tells the agent.
func (r *Runtime) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(r.config.DrainTimeout, minClose))
	defer cancel()
	err := errors.Join(r.executor.Close(ctx), r.keepLast(ctx))
	if stopper, ok := r.config.Agent.(Stopper); ok {
		err = errors.Join(err, r.call(ctx, "OnStop", stopper.OnStop))
	}
	return err
}

// keepLast writes the agent's last state, if the end came while that was being written. The agent does not say again
// what it has said once.
func (r *Runtime) keepLast(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), minClose)
	defer cancel()
	return r.states.keep(ctx)
}

// call calls a method of the agent and turns its panic into an error.
func (r *Runtime) call(ctx context.Context, what string, f func(context.Context) error) (err error) {
	defer panics.Catch(&err, what)
	return f(ctx)
}
