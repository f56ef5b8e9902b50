package remote_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The cast: Hanna keeps the tasks, Alice submits, Bob and Carol work, Mallory is known and of bad faith.
var hanna, alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(4), agent(66)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var quiet = slog.New(slog.DiscardHandler)

// site is two places, between which there are messages only: Hanna's, with the tasks, and everybody else's.
type site struct {
	t        *testing.T
	wires    *local.Network
	registry *identity.Registry
	store    store.Store
	tasks    *task.Manager
	verifier *task.Verifier // nil where signatures are not what a test is about
	policy   remote.Policy
	stop     func() // Hanna's place, as if its machine were switched off
	desk     *remote.Host
	pools    atomic.Pointer[map[identity.ID][]string] // who is a member of what
}

func newSite(t *testing.T) *site {
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	s := &site{t: t, wires: must(local.New(local.Config{})), registry: identity.NewRegistry(0), store: entries, policy: remote.AllowAll}
	for _, id := range []*identity.Identity{hanna, alice, bob, carol, mallory} {
		if err := s.registry.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	s.open()
	t.Cleanup(func() { s.stop() })
	return s
}

// poolsOf returns whatever the test has set.
func (s *site) poolsOf(agent identity.ID) []string {
	if of := s.pools.Load(); of != nil {
		return (*of)[agent]
	}
	return nil
}

// setPools has agents be members of pools from now on.
func (s *site) setPools(pools map[identity.ID][]string) { s.pools.Store(&pools) }

// open starts Hanna's place.
func (s *site) open() {
	s.tasks = must(task.New(task.Config{
		Store: s.store, Verifier: s.verifier, UnsignedUnsafe: s.verifier == nil, Logger: quiet,
		Member: func(pool string, agent identity.ID) bool { return slices.Contains(s.poolsOf(agent), pool) },
	}))
	s.desk = must(remote.NewHost(remote.HostConfig{Tasks: s.tasks, Allow: s.policy, Pools: s.poolsOf, Logger: quiet}))
	s.stop = s.serve(s.desk)
}

// serve has somebody receive what the host is asked and send what it answers.
func (s *site) serve(h *remote.Host) (stop func()) {
	hooked, closeTransport := s.hook(hanna)
	ctx, cancel := context.WithCancel(context.Background())
	wake := make(chan struct{}, 1)
	detach := h.Attach(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	asked := make(chan *message.Message)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			m, err := hooked.Receive(ctx)
			if err != nil {
				return
			}
			select {
			case asked <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	serving.Go(func() {
		timer := time.NewTimer(0)
		for {
			var drafts []message.Draft
			select {
			case m := <-asked:
				if d, ok := h.Answer(ctx, m); ok {
					drafts = append(drafts, d)
				}
			case <-wake:
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			due, next := h.Due(ctx)
			if next > 0 {
				timer.Reset(next)
			}
			hooked.SendAll(ctx, append(drafts, due...))
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		serving.Wait()
		detach()
		closeTransport()
	})
}

// hook brings an agent onto the network.
func (s *site) hook(id *identity.Identity, hooks ...transport.Hook) (h *transport.Hooked, stop func()) {
	s.t.Helper()
	endpoint := s.wires.Endpoint(id.ID())
	if err := endpoint.Start(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	return must(transport.NewHooked(transport.HookedConfig{
		Transport: endpoint,
		Signer:    must(message.NewSigner(message.SignerConfig{Identity: id, Network: "test"})),
		Verifier:  must(message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: "test", Keys: s.registry})),
		Hooks:     hooks,
		Logger:    quiet,
	})), func() { endpoint.Close() }
}

// client is an agent elsewhere, with a client of Hanna's.
type client struct {
	*remote.Client
	*transport.Hooked
	profile task.Profile
	stop    func()       // switches the agent's machine off
	late    atomic.Int64 // for how long the answers to operations lie about; their loss, if it is negative
	inbox   sync.Map     // what came besides answers, by ID
}

// client brings an agent onto the network that has capabilities.
func (s *site) client(id *identity.Identity, capabilities ...string) *client {
	return s.clientWith(id, capabilities, remote.Config{})
}

func (s *site) clientWith(id *identity.Identity, capabilities []string, config remote.Config, hooks ...transport.Hook) *client {
	s.t.Helper()
	config.Host = hanna.ID()
	c := &client{Client: must(remote.New(config)), profile: task.Profile{Agent: id.ID(), Capabilities: capabilities}}
	var closeTransport func()
	c.Hooked, closeTransport = s.hook(id, hooks...)
	ctx, cancel := context.WithCancel(context.Background())
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for {
			m, err := c.Receive(ctx)
			if err != nil {
				return
			}
			c.inbox.Store(m.ID(), m)
		}
	})
	c.stop = sync.OnceFunc(func() { cancel(); receiving.Wait(); closeTransport() })
	s.t.Cleanup(c.stop)
	if err := c.Bind(remote.Binding{Requester: c, Profile: c.profile, Logger: quiet}); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Request implements [remote.Requester]. What follows the tasks' ends gets its answers at once; so do not those who
// ask for something to be done, if the test says so.
func (c *client) Request(ctx context.Context, d message.Draft) (*message.Message, error) {
	m, err := c.Hooked.Request(ctx, d)
	switch late := time.Duration(c.late.Load()); {
	case d.TTL != remote.DefaultTimeout: // a poll waits for longer
	case late < 0:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	default:
		time.Sleep(late)
	}
	return m, err
}

// mustSubmit submits a task with Alice's client.
func (c *client) mustSubmit(t *testing.T, s task.Spec) task.Task {
	t.Helper()
	if s.Kind == "" {
		s.Kind = "work"
	}
	submitted, err := c.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return submitted
}

func (c *client) mustClaim(t *testing.T, id string) task.Claim {
	t.Helper()
	claim, _, err := c.Claim(t.Context(), id, c.profile)
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

func (s *site) expectStatus(id string, want task.Status) task.Task {
	s.t.Helper()
	got := must(s.tasks.Get(s.t.Context(), id))
	if got.Status != want {
		s.t.Errorf("task %s is %v, want %v", id, got.Status, want)
	}
	return got
}

func expectErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// recorder keeps what a listener was told.
type recorder struct {
	mu   sync.Mutex
	told []task.Task
}

func (r *recorder) listen(t task.Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, t)
}

// tell returns what was told since the last time, once everything has come to rest.
func (r *recorder) tell() []task.Task {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told
	r.told = nil
	return told
}

// statuses returns how often each task was told to be in each status.
func (r *recorder) statuses() map[string]int {
	counts := map[string]int{}
	for _, t := range r.tell() {
		counts[t.ID+" "+t.Status.String()]++
	}
	return counts
}

// inBubble runs a test in fake time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
