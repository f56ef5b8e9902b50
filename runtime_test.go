package converge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is where the agents of one test live.
type world struct {
	t        *testing.T
	network  *local.Network
	registry *identity.Registry
	tasks    *task.Manager
	running  sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	store := must(memory.New(memory.Config{}))
	t.Cleanup(func() { store.Close() })
	registry := identity.NewRegistryWith(identity.RegistryConfig{Logger: quiet})
	return &world{
		t:        t,
		network:  must(local.New(local.Config{})),
		registry: registry,
		tasks: must(task.New(task.Config{
			Store: store, Verifier: must(task.NewVerifier(registry, "test")), Logger: quiet,
		})),
	}
}

var quiet = slog.New(slog.DiscardHandler)

// config returns the configuration of a new agent that everybody knows.
func (w *world) config(a converge.Agent) converge.Config {
	w.t.Helper()
	id := must(identity.Generate())
	if err := w.registry.Register(id.ID(), id.PublicKey()); err != nil {
		w.t.Fatal(err)
	}
	return converge.Config{
		Identity: id, Network: "test", Agent: a, Registry: w.registry, Transport: w.network.Endpoint(id.ID()), Logger: quiet,
	}
}

// agent is a runtime that runs.
type agent struct {
	*converge.Runtime
	t    *testing.T
	stop context.CancelFunc
	err  chan error
}

// run runs an agent until the end of the test, or until its stop is called.
func (w *world) run(c converge.Config) *agent {
	w.t.Helper()
	r, err := converge.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	a := &agent{r, w.t, stop, make(chan error, 1)}
	w.running.Go(func() { a.err <- r.Run(ctx) })
	w.t.Cleanup(func() { stop(); w.running.Wait() })
	return a
}

// end stops the agent and returns what Run returned.
func (a *agent) end() error {
	a.stop()
	return <-a.err
}

// peer is a participant that a test moves by hand.
type peer struct {
	t *testing.T
	*transport.Hooked
	raw transport.Transport
	id  *identity.Identity
}

func (w *world) peer() peer {
	w.t.Helper()
	id := must(identity.Generate())
	if err := w.registry.Register(id.ID(), id.PublicKey()); err != nil {
		w.t.Fatal(err)
	}
	return w.peerOf(id)
}

func (w *world) peerOf(id *identity.Identity) peer {
	w.t.Helper()
	endpoint := w.network.Endpoint(id.ID())
	if err := endpoint.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { endpoint.Close() })
	hooked := must(transport.NewHooked(transport.HookedConfig{
		Transport: endpoint,
		Signer:    must(message.NewSigner(message.SignerConfig{Identity: id, Network: "test"})),
		Verifier:  must(message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: "test", Keys: w.registry})),
		Logger:    quiet,
	}))
	return peer{w.t, hooked, endpoint, id}
}

// submit submits a task of a peer's.
func (w *world) submit(p peer, s task.Spec) {
	w.t.Helper()
	if errs := must(task.NewSigner(p.id, "test")).SignSpecs(&s); errs != nil {
		w.t.Fatal(errs)
	}
	must(w.tasks.Submit(w.t.Context(), s))
}

func (p peer) say(to identity.ID, body string) *message.Message {
	p.t.Helper()
	m, err := p.Send(p.t.Context(), message.Draft{To: to, Body: []byte(body)})
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

func (p peer) hear() string {
	p.t.Helper()
	m, err := p.Receive(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return string(m.Body())
}

// script is an agent that answers each turn by a function and keeps what it was shown.
type script struct {
	decide func(converge.Turn) []converge.Decision

	mu    sync.Mutex
	turns []converge.Turn
}

func (s *script) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	s.mu.Lock()
	s.turns = append(s.turns, t)
	s.mu.Unlock()
	if s.decide == nil {
		return nil, nil
	}
	return s.decide(t), nil
}

func (s *script) seen() []converge.Turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.turns)
}

// bodies returns the bodies of all messages that the agent has seen.
func (s *script) bodies() []string {
	var all []string
	for _, t := range s.seen() {
		for _, m := range t.Messages {
			all = append(all, string(m.Body()))
		}
	}
	return all
}

// failures returns the errors of all decisions that failed.
func (s *script) failures() []error {
	var all []error
	for _, t := range s.seen() {
		for _, f := range t.Failures {
			all = append(all, f.Err)
		}
	}
	return all
}

// results returns all tool results that the agent has seen.
func (s *script) results() []converge.ToolResult {
	var all []converge.ToolResult
	for _, t := range s.seen() {
		all = append(all, t.Results...)
	}
	return all
}

// once returns a decide function that makes the decisions in the first turn.
func once(decisions ...converge.Decision) func(converge.Turn) []converge.Decision {
	return func(converge.Turn) (now []converge.Decision) {
		now, decisions = decisions, nil
		return now
	}
}

func expectBodies(t *testing.T, s *script, want ...string) {
	t.Helper()
	if got := s.bodies(); !slices.Equal(got, want) {
		t.Errorf("the agent saw %q, want %q", got, want)
	}
}

func TestMessagesReachTheAgentVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{decide: func(t converge.Turn) (d []converge.Decision) {
			for _, m := range t.Messages {
				d = append(d, converge.SendMessage{Draft: message.Draft{To: m.Sender(), Body: m.Body(), InReplyTo: m.ID()}})
			}
			return d
		}}
		r := w.run(w.config(bob))
		alice := w.peer()
		synctest.Wait()
		alice.say(r.ID(), `"hello"`)
		if got := alice.hear(); got != `"hello"` {
			t.Errorf("the answer is %q", got)
		}
		for _, turn := range bob.seen() {
			for _, m := range turn.Messages {
				if !m.Verified() || m.Sender() != alice.id.ID() {
					t.Errorf("the agent was shown %s, verified %t", m, m.Verified())
				}
			}
		}
		if err := r.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestUnverifiedFramesNeverReachTheAgent is invariant 1: one frame for each way to be refused.
func TestUnverifiedFramesNeverReachTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{}
		var mu sync.Mutex
		refused := map[message.Reason]int{}
		c := w.config(bob)
		c.RuntimeHooks.UnverifiedDrop = func(_ context.Context, r *message.Refusal) {
			mu.Lock()
			defer mu.Unlock()
			refused[r.Reason]++
		}
		r := w.run(c)
		alice, mallory := w.peer(), w.peerOf(must(identity.Generate()))
		synctest.Wait()
		inject := func(raw []byte) {
			t.Helper()
			if err := mallory.raw.Send(t.Context(), transport.Route{To: r.ID()}, raw); err != nil {
				t.Fatal(err)
			}
		}
		sign := func(id *identity.Identity, network string, d message.Draft, now time.Time) []byte {
			s := must(message.NewSigner(message.SignerConfig{Identity: id, Network: network, Now: func() time.Time { return now }}))
			return must(s.Sign(t.Context(), d)).Raw()
		}
		now := time.Now()
		toBob := message.Draft{To: r.ID(), Body: []byte("attack")}
		honest := alice.say(r.ID(), "honest")
		synctest.Wait()
		inject(honest.Raw())                                                                                // replay
		inject(sign(mallory.id, "test", toBob, now))                                                        // unknown sender
		inject(sign(alice.id, "other", toBob, now))                                                         // another network
		inject(sign(alice.id, "test", message.Draft{To: alice.id.ID()}, now))                               // another recipient
		inject(sign(alice.id, "test", message.Draft{Topics: []message.Topic{message.MustTopic("t")}}, now)) // not subscribed
		inject(sign(alice.id, "test", toBob, now.Add(-time.Hour)))                                          // expired
		inject(sign(alice.id, "test", toBob, now.Add(time.Hour)))                                           // from the future
		inject(make([]byte, message.DefaultMaxSize+1))                                                      // oversize
		inject([]byte("garbage"))
		flipped := sign(alice.id, "test", toBob, now.Add(time.Second))
		flipped[len(flipped)-1] ^= 1
		inject(flipped)
		alice.say(r.ID(), "still honest")
		synctest.Wait()
		expectBodies(t, bob, "honest", "still honest")
		mu.Lock()
		defer mu.Unlock()
		for reason, want := range map[message.Reason]int{
			message.ErrReplayed: 1, message.ErrUnknownSender: 1, message.ErrMisaddressed: 3, message.ErrExpired: 1,
			message.ErrNotYetValid: 1, message.ErrTooLarge: 1, message.ErrMalformed: 1, message.ErrBadSignature: 1,
		} {
			if refused[reason] != want || r.Stats().Refused[reason.String()] != uint64(want) {
				t.Errorf("%v: UnverifiedDrop was told of %d, Stats counts %d, want %d", reason, refused[reason], r.Stats().Refused[reason.String()], want)
			}
		}
	})
}

// TestRestartedReceiverRefusesWhatWasSentBefore: the replay window is gone with the process, so what was
// signed before the new one began is refused whether or not it was delivered.
func TestRestartedReceiverRefusesWhatWasSentBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := &script{}
		c := w.config(first)
		r := w.run(c)
		alice := w.peer()
		synctest.Wait()
		captured := alice.say(r.ID(), "pay once")
		synctest.Wait()
		expectBodies(t, first, "pay once")
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		second := &script{}
		c.Agent, c.Transport = second, w.network.Endpoint(c.Identity.ID())
		r = w.run(c)
		synctest.Wait()
		if err := alice.raw.Send(t.Context(), transport.Route{To: r.ID()}, captured.Raw()); err != nil {
			t.Fatal(err)
		}
		alice.say(r.ID(), "new")
		synctest.Wait()
		expectBodies(t, second, "new")
	})
}

func TestUnsafeReceiveShowsWhatIsNotVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{}
		c := w.config(bob)
		c.ReceiveUnsafe = true
		r := w.run(c)
		mallory := w.peerOf(must(identity.Generate()))
		synctest.Wait()
		mallory.say(r.ID(), "who am I?")
		synctest.Wait()
		expectBodies(t, bob, "who am I?")
		for _, turn := range bob.seen() {
			for _, m := range turn.Messages {
				if m.Verified() {
					t.Error("an unverified message says that it is verified")
				}
			}
		}
	})
}

func TestTopicsReachTheirSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{}
		c := w.config(bob)
		c.Topics = []message.Pattern{message.MustPattern("orders.*")}
		w.run(c)
		alice := w.peer()
		synctest.Wait()
		for _, topic := range []string{"orders.created", "invoices.created", "orders.eu.created"} {
			if _, err := alice.Send(t.Context(), message.Draft{Topics: []message.Topic{message.MustTopic(topic)}, Body: []byte(topic)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := alice.Send(t.Context(), message.Draft{Body: []byte("to all")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expectBodies(t, bob, "orders.created", "to all")
	})
}

func TestFallbackPathSendsMessagesThroughItsHookAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.peer()
		send := func(body string) converge.Decision {
			return converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte(body)}}
		}
		bob := &script{decide: once(send("plain"), send("drop"), send("panic"), converge.InvokeTool{Tool: "rm"}, send("last"))}
		c := w.config(bob)
		c.RuntimeHooks.FallbackPreSend = func(_ context.Context, d message.Draft) *message.Draft {
			switch string(d.Body) {
			case "drop":
				return nil
			case "panic":
				panic("bad hook")
			}
			d.Body = append([]byte("seen: "), d.Body...)
			return &d
		}
		r := w.run(c)
		if got := []string{alice.hear(), alice.hear()}; !slices.Equal(got, []string{"seen: plain", "seen: last"}) {
			t.Errorf("alice received %q", got)
		}
		time.Sleep(time.Second)
		failures := bob.failures()
		if len(failures) != 3 || !errors.Is(failures[0], transport.ErrDropped) || !errors.Is(failures[2], converge.ErrNotConfigured) {
			t.Errorf("failures: %v, want a drop, a panic, and not configured", failures)
		}
		if d := r.Stats().Decisions["send_message"]; d.Done != 2 || d.Failed != 2 {
			t.Errorf("send_message counts %+v, want 2 done and 2 failed", d)
		}
	})
}

func TestPanicOrErrorCostsOneTurnOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var got []string
		c := w.config(agentFunc(func(t converge.Turn) ([]converge.Decision, error) {
			for _, m := range t.Messages {
				got = append(got, string(m.Body()))
				switch string(m.Body()) {
				case "panic":
					panic("bad agent")
				case "error":
					return []converge.Decision{converge.SendMessage{Draft: message.Draft{Body: []byte("must not be sent")}}}, errors.New("bad turn")
				}
			}
			return nil, nil
		}))
		r := w.run(c)
		alice := w.peer()
		synctest.Wait()
		for _, body := range []string{"panic", "error", "fine"} {
			alice.say(r.ID(), body)
			synctest.Wait()
		}
		if err := r.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if !slices.Equal(got, []string{"panic", "error", "fine"}) {
			t.Errorf("the agent saw %q", got)
		}
		if s := r.Stats(); s.Failed != 2 || s.Signed != 0 {
			t.Errorf("%d turns failed and %d messages were signed, want 2 and 0", s.Failed, s.Signed)
		}
	})
}

// agentFunc is an agent of one function.
type agentFunc func(converge.Turn) ([]converge.Decision, error)

func (f agentFunc) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	return f(t)
}

func TestRunDrainsWhatHasComeAndReturnsNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &lifecycle{script: script{}}
		entered, release := make(chan struct{}), make(chan struct{})
		bob.decide = func(turn converge.Turn) []converge.Decision {
			if len(turn.Messages) > 0 && string(turn.Messages[0].Body()) == "0" {
				close(entered)
				<-release
			}
			return nil
		}
		r := w.run(w.config(bob))
		alice := w.peer()
		synctest.Wait()
		if !r.Ready() || r.Health().State != converge.StateRunning {
			t.Errorf("health while running: %+v", r.Health())
		}
		alice.say(r.ID(), "0")
		<-entered
		var want []string
		for i := range 200 {
			want = append(want, fmt.Sprint(i))
			if i > 0 {
				alice.say(r.ID(), fmt.Sprint(i))
			}
		}
		synctest.Wait()
		r.stop()
		close(release)
		if err := <-r.err; err != nil {
			t.Errorf("Run: %v", err)
		}
		expectBodies(t, &bob.script, want...)
		turns := bob.seen()
		if !turns[len(turns)-1].Draining {
			t.Error("the last turn does not say that the runtime is draining")
		}
		if !slices.Equal(bob.events, []string{"start", "stop"}) {
			t.Errorf("lifecycle: %q", bob.events)
		}
		if r.Ready() || r.Health().State != converge.StateStopped {
			t.Errorf("health afterwards: %+v", r.Health())
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("a second Run succeeded")
		}
	})
}

// lifecycle is a script that is a Starter, a Stopper and a Ticker.
type lifecycle struct {
	script
	events   []string
	ticks    int
	startErr error
}

func (l *lifecycle) OnStart(context.Context) error {
	l.events = append(l.events, "start")
	return l.startErr
}

func (l *lifecycle) OnStop(context.Context) error {
	l.events = append(l.events, "stop")
	return nil
}

func (l *lifecycle) OnTick(context.Context) error {
	l.ticks++
	return nil
}

// finishing is an agent that is stopped while it decides.
type finishing struct {
	decide func(context.Context, converge.Turn) ([]converge.Decision, error)
}

func (f finishing) Decide(ctx context.Context, t converge.Turn) ([]converge.Decision, error) {
	if len(t.Messages) == 0 {
		return nil, nil
	}
	return f.decide(ctx, t)
}

// TestTurnUnderWayIsFinished has an agent stopped between what it is asked and its answer: a host whose last task is
// done answers all the same.
func TestTurnUnderWayIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.peer()
		var r *agent
		r = w.run(w.config(finishing{func(ctx context.Context, turn converge.Turn) ([]converge.Decision, error) {
			r.stop()
			time.Sleep(converge.DefaultDrainTimeout / 2)
			return []converge.Decision{converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte("done")}}}, ctx.Err()
		}}))
		synctest.Wait()
		alice.say(r.ID(), "do it")
		if got := alice.hear(); got != "done" {
			t.Errorf("the answer is %q", got)
		}
		if err := <-r.err; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// starting is an agent that is stopped while it starts.
type starting struct {
	script
	stop func()
}

func (s *starting) OnStart(context.Context) error {
	s.stop()
	return nil
}

func TestAgentThatIsStoppedAtItsStartBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		late := &starting{script: script{decide: once(converge.SubmitTask{Spec: task.Spec{ID: "a", Kind: "k"}})}}
		c := w.config(late)
		c.Tasks, c.Executor = w.tasks, &converge.ExecutorConfig{}
		r := must(converge.New(c))
		ctx, stop := context.WithCancel(t.Context())
		late.stop = stop
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if turns := late.seen(); len(turns) != 0 {
			t.Errorf("%d turns", len(turns))
		}
		if all := w.tasks.Visible(task.Profile{}, 10); len(all) != 0 {
			t.Errorf("%d tasks were submitted", len(all))
		}
	})
}

func TestTurnUnderWayEndsWithTheDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.peer()
		c := w.config(finishing{func(ctx context.Context, turn converge.Turn) ([]converge.Decision, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		c.DecideTimeout, c.DrainTimeout = time.Hour, 3*time.Second
		r := w.run(c)
		synctest.Wait()
		alice.say(r.ID(), "think")
		synctest.Wait()
		begin := time.Now()
		if err := r.end(); err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("Run: %v after %v", err, time.Since(begin))
		}
	})
}

func TestFailingStartEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cause := errors.New("no licence")
		bob := &lifecycle{startErr: cause}
		r := w.run(w.config(bob))
		if err := <-r.err; !errors.Is(err, cause) {
			t.Errorf("Run: %v, want %v", err, cause)
		}
		if len(bob.seen()) > 0 {
			t.Error("an agent that could not start was given a turn")
		}
	})
}

func TestStopBeforeTheStartIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &lifecycle{}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := must(converge.New(w.config(bob))).Run(ctx); err != nil {
			t.Errorf("Run with a context that has ended: %v", err)
		}
		if len(bob.events)+len(bob.seen()) > 0 {
			t.Errorf("the agent was started all the same: %q", bob.events)
		}
	})
}

func TestTransportFailureEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(&script{})
		r := w.run(c)
		synctest.Wait()
		c.Transport.Close()
		if err := <-r.err; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Run: %v, want ErrClosed", err)
		}
	})
}

func TestTurnsComeWhenDueAndIdleAgentsSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		idle, ticking := &script{}, &lifecycle{}
		w.run(w.config(idle))
		c := w.config(ticking)
		c.TickEvery = time.Minute
		w.run(c)
		woken := &script{decide: once(converge.Wake{After: time.Hour})}
		w.run(w.config(woken))
		time.Sleep(2*time.Hour + time.Second)
		synctest.Wait()
		if n := len(idle.seen()); n != 1 {
			t.Errorf("an idle agent had %d turns in two hours, want the first only", n)
		}
		if ticking.ticks != 121 {
			t.Errorf("%d ticks in two hours of one a minute, want 121", ticking.ticks)
		}
		if n := len(woken.seen()); n != 2 {
			t.Errorf("an agent that asked to be woken once had %d turns, want 2", n)
		}
	})
}

func TestFailuresAreShownWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		insists := &script{decide: func(converge.Turn) []converge.Decision { return []converge.Decision{converge.Vote{}} }}
		r := w.run(w.config(insists))
		time.Sleep(time.Minute)
		if n := len(insists.seen()); n < 60 || n > 80 {
			t.Errorf("an agent whose decisions all fail had %d turns in a minute, want about one a second", n)
		}
		for _, err := range insists.failures() {
			if !errors.Is(err, converge.ErrNotConfigured) {
				t.Fatalf("vote: %v, want ErrNotConfigured", err)
			}
		}
		if d := r.Stats().Decisions["vote"]; d.Failed == 0 || d.Done != 0 {
			t.Errorf("vote counts %+v", d)
		}
	})
}

func TestInboxPolicies(t *testing.T) {
	for _, policy := range []struct {
		whenFull transport.WhenFull
		want     int // messages that the agent sees in the end
	}{{transport.Block, 20}, {transport.DropNewest, 5}} {
		t.Run(fmt.Sprint(policy.whenFull), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				release := make(chan struct{})
				bob := &script{decide: func(converge.Turn) []converge.Decision { <-release; return nil }}
				c := w.config(bob)
				c.Inbox = converge.InboxConfig{Capacity: 5, WhenFull: policy.whenFull}
				r := w.run(c)
				alice := w.peer()
				synctest.Wait()
				for i := range 20 {
					alice.say(r.ID(), fmt.Sprint(i))
				}
				synctest.Wait()
				close(release)
				synctest.Wait()
				if n := len(bob.bodies()); n != policy.want {
					t.Errorf("the agent saw %d of 20 messages, want %d", n, policy.want)
				}
				if dropped := r.Stats().Overflow; dropped != uint64(20-policy.want) {
					t.Errorf("Overflow = %d, want %d", dropped, 20-policy.want)
				}
			})
		})
	}
}

func TestRegistersWithDiscoveryRenewsAndWithdraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := must(memory.New(memory.Config{}))
		defer store.Close()
		service := must(discovery.New(discovery.Config{Store: store, Network: "test", Logger: quiet}))
		c := w.config(&script{})
		c.Discovery, c.Name = service, "bob"
		c.Capabilities = []discovery.Capability{{Name: "count"}}
		c.Topics = []message.Pattern{message.MustPattern("orders.>")}
		r := w.run(c)
		synctest.Wait()
		query := discovery.Query{Capabilities: []string{"count"}, Topics: []message.Topic{message.MustTopic("orders.created")}}
		find := func() []discovery.Descriptor { return must(service.Query(t.Context(), query)) }
		if found := find(); len(found) != 1 || found[0].ID != r.ID() || found[0].Name != "bob" {
			t.Fatalf("a running agent is found as %+v", found)
		}
		time.Sleep(10 * discovery.DefaultTTL)
		if len(find()) != 1 {
			t.Error("the descriptor was not renewed")
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		if found := find(); len(found) != 0 {
			t.Errorf("after its end the agent is found as %+v", found)
		}
	})
}

func TestNewNamesTheFieldAtFault(t *testing.T) {
	w := newWorld(t)
	for field, spoil := range map[string]func(*converge.Config){
		"Identity":     func(c *converge.Config) { c.Identity = nil },
		"Network":      func(c *converge.Config) { c.Network = "Not A Name" },
		"Agent":        func(c *converge.Config) { c.Agent = nil },
		"Transport":    func(c *converge.Config) { c.Transport = nil },
		"Registry":     func(c *converge.Config) { c.Registry = nil },
		"Inbox":        func(c *converge.Config) { c.Inbox.Capacity = -1 },
		"DrainTimeout": func(c *converge.Config) { c.DrainTimeout = -1 },
		"Hooks[0]":     func(c *converge.Config) { c.Hooks = []transport.Hook{nil} },
		"Handlers": func(c *converge.Config) {
			c.Executor = &converge.ExecutorConfig{Handlers: map[string]converge.Handler{"invoke_tool": nil}}
		},
		"Allowlist":      func(c *converge.Config) { c.Executor = &converge.ExecutorConfig{ToolAllowlist: []string{"rm"}} },
		"MaxCalls":       func(c *converge.Config) { c.Executor = &converge.ExecutorConfig{MaxCalls: -1} },
		"VerifierConfig": func(c *converge.Config) { c.Verifier.Skew = -1 },
	} {
		c := w.config(&script{})
		spoil(&c)
		if _, err := converge.New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New without a valid %s: %v, want an error that names it", field, err)
		}
	}
}

func TestIdleAgentsCostTwoGoroutinesEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const agents = 100
		before := runtime.NumGoroutine()
		for range agents {
			c := w.config(&script{})
			c.Tasks = w.tasks
			w.run(c)
		}
		synctest.Wait()
		if each := (runtime.NumGoroutine() - before - 2) / agents; each > 2 { // 2 for the task manager
			t.Errorf("an idle agent holds %d goroutines, want 2 at most", each)
		}
	})
}

// peerless returns the ID of an agent that is not on the network.
func (w *world) peerless() identity.ID { return must(identity.Generate()).ID() }

func parseID(text string) (identity.ID, error) { return identity.ParseID(text) }

// syncBuffer is a buffer that several goroutines may write to.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
