package gossip_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

var quiet = slog.New(slog.DiscardHandler)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var agent = testkit.Agent

var alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(66)

// process is one with a store of its own and one agent.
type process struct {
	t        *testing.T
	id       *identity.Identity
	service  *discovery.Service
	registry *identity.Registry
	gossip   *gossip.Gossip
	hooked   *transport.Hooked
	signer   *message.Signer
	end      func()

	mu      sync.Mutex
	reached []string
	sent    int
	seen    []string // bodies that the agent got to see
}

// wires is the network between processes. A process hears only those that it is linked to.
type wires struct {
	t *testing.T
	*local.Network
}

func newWires(t *testing.T) *wires {
	return &wires{t, must(local.New(local.Config{}))}
}

func admitAll(discovery.Descriptor, identity.ID) bool { return true }

// start runs a process whose agent knows some others from its configuration.
func (w *wires) start(id *identity.Identity, change func(*gossip.Config), knows ...*identity.Identity) *process {
	w.t.Helper()
	p := &process{t: w.t, id: id, registry: identity.NewRegistryWith(identity.RegistryConfig{Logger: quiet})}
	for _, other := range knows {
		if err := p.registry.Register(other.ID(), other.PublicKey()); err != nil {
			w.t.Fatal(err)
		}
	}
	entries := must(memory.New(memory.Config{}))
	p.service = must(discovery.New(discovery.Config{Store: entries, Network: network, TTL: time.Minute, Logger: quiet}))
	population := must(p.service.Populate(context.Background(), p.registry))
	c := gossip.Config{
		Service: p.service, Send: p.send, Admit: admitAll, Logger: quiet,
		Reach: func(d discovery.Descriptor) {
			if len(d.Endpoints) > 0 {
				p.note(&p.reached, d.ID.Short()+" "+strings.Join(d.Endpoints, " "))
			}
		},
	}
	if change != nil {
		change(&c)
	}
	p.gossip = must(gossip.New(c))
	endpoint := w.Endpoint(id.ID())
	if err := endpoint.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	p.signer = must(message.NewSigner(message.SignerConfig{Identity: id, Network: network}))
	p.hooked = must(transport.NewHooked(transport.HookedConfig{
		Transport: endpoint, Signer: p.signer, Hooks: []transport.Hook{p.gossip}, Logger: quiet,
		Verifier: must(message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: network, Keys: p.registry})),
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.gossip.Run(ctx); err != nil {
			p.t.Errorf("Run: %v", err)
		}
	})
	running.Go(p.receive)
	p.end = sync.OnceFunc(func() {
		cancel()
		synctest.Wait()
		population.Close()
		endpoint.Close()
		running.Wait()
		entries.Close()
	})
	w.t.Cleanup(p.end)
	return p
}

func (p *process) send(ctx context.Context, d message.Draft) error {
	p.mu.Lock()
	p.sent++
	p.mu.Unlock()
	_, err := p.hooked.Send(ctx, d)
	return err
}

func (p *process) receive() {
	for {
		m, err := p.hooked.Receive(context.Background())
		if err != nil {
			return
		}
		p.note(&p.seen, string(m.Body()))
	}
}

func (p *process) note(where *[]string, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*where = append(*where, what)
}

func (p *process) noted(where *[]string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(*where)
}

// register publishes the descriptor of an agent of the process.
func (p *process) register(id *identity.Identity, d discovery.Descriptor) []byte {
	p.t.Helper()
	if _, err := p.service.Register(p.t.Context(), id, d); err != nil {
		p.t.Fatal(err)
	}
	return p.entry(id)
}

// entry returns the signed descriptor that the process has of an agent.
func (p *process) entry(id *identity.Identity) []byte {
	for e, err := range p.service.Entries(p.t.Context()) {
		if err == nil && e.ID == id.ID() && !e.Statement {
			return e.Raw
		}
	}
	return nil
}

// finds wants exactly the agents of these names to be found.
func (p *process) finds(what, want string) {
	p.t.Helper()
	var all []string
	for _, d := range must(p.service.Query(p.t.Context(), discovery.Query{})) {
		all = append(all, d.Name)
	}
	slices.Sort(all)
	if got := strings.Join(all, " "); got != want {
		p.t.Errorf("%s: %s finds %q; want %q", what, p.id.ID().Short(), got, want)
	}
}

func (p *process) knows(what string, id *identity.Identity, want error) {
	p.t.Helper()
	key, err := p.registry.Lookup(id.ID())
	if !errors.Is(err, want) || err == nil && !key.Public.Equal(id.PublicKey()) {
		p.t.Errorf("%s: %s knows of %s: %v; want %v", what, p.id.ID().Short(), id.ID().Short(), err, want)
	}
}

// tell sends a message of one's own making to everybody.
func (p *process) tell(body []byte) {
	p.t.Helper()
	if _, err := p.hooked.Send(p.t.Context(), message.Draft{ContentType: gossip.ContentType, Body: body}); err != nil {
		p.t.Fatal(err)
	}
}

func named(name string) discovery.Descriptor { return discovery.Descriptor{Name: name} }

func TestAgentsFindEachOtherWithoutASharedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		a := w.start(alice, nil, bob)
		b := w.start(bob, nil, alice)
		a.register(alice, discovery.Descriptor{Name: "a", Endpoints: []string{"tls://192.0.2.1:7433"}})
		b.register(bob, named("b"))
		time.Sleep(time.Second)
		a.finds("started", "a b")
		b.finds("started", "a b")
		if want := alice.ID().Short() + " tls://192.0.2.1:7433"; !slices.Equal(b.noted(&b.reached), []string{want}) {
			t.Errorf("addresses: %q", b.noted(&b.reached))
		}
		a.register(alice, named("a2"))
		time.Sleep(100 * time.Millisecond)
		b.finds("changed", "a2 b")
		time.Sleep(50 * time.Second)
		a.register(alice, named("a3"))
		time.Sleep(15 * time.Second)
		b.finds("renewed by one alone", "a3")
		if err := a.service.Withdraw(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		a.end()
		synctest.Wait()
		b.finds("withdrawn at the end", "")
		if len(b.seen) != 0 {
			t.Errorf("the agent got to see %q", b.seen)
		}
	})
}

// TestNewcomerLearnsOfAllFromOneThatItKnows has Carol know Bob alone, and Alice know nothing of Carol.
func TestNewcomerLearnsOfAllFromOneThatItKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		a := w.start(alice, nil, bob)
		b := w.start(bob, nil, alice, carol)
		a.register(alice, named("a"))
		b.register(bob, named("b"))
		time.Sleep(20 * time.Second)
		c := w.start(carol, nil, bob)
		c.register(carol, named("c"))
		c.knows("before", alice, identity.ErrUnknown)
		time.Sleep(2 * time.Second)
		for _, p := range []*process{a, b, c} {
			p.finds("the newcomer is there", "a b c")
		}
		c.knows("then", alice, nil)
		a.knows("then", carol, nil)
		if _, err := c.hooked.Send(t.Context(), message.Draft{To: alice.ID(), Body: []byte(`"hello"`)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(a.seen, []string{`"hello"`}) {
			t.Errorf("Alice has seen %q", a.seen)
		}
	})
}

// TestUnknownAgentsAreNotLetInByDefault: without Admit, only what is known is kept current.
func TestUnknownAgentsAreNotLetInByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		deny := func(c *gossip.Config) { c.Admit = nil }
		a := w.start(alice, deny, bob)
		b := w.start(bob, func(c *gossip.Config) {
			c.Admit = nil
			c.Known = func(id identity.ID) bool { return id == alice.ID() }
		}, alice, mallory)
		m := w.start(mallory, nil, alice, bob)
		a.register(alice, named("a"))
		m.register(mallory, named("m"))
		m.register(agent(77), named("made-up"))
		time.Sleep(10 * time.Second)
		b.finds("admits nobody", "a")
		b.knows("admits nobody", agent(77), identity.ErrUnknown)
		if b.gossip.Stats().Refused == 0 {
			t.Error("nothing was refused")
		}
	})
}

// TestRotationAndRevocationSpread within a second, to processes that do not know the agent's own process.
func TestRotationAndRevocationSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		a := w.start(alice, nil, bob)
		b := w.start(bob, nil, alice, carol)
		c := w.start(carol, nil, bob)
		a.register(alice, named("a"))
		time.Sleep(3 * time.Second)
		first := must(alice.Rotate(identity.Rotation{}))
		a.register(first, named("a1"))
		time.Sleep(time.Second)
		for _, p := range []*process{b, c} {
			p.knows("rotated", first, nil)
			p.finds("rotated", "a1")
		}
		if err := b.service.PublishStatement(t.Context(), must(alice.Revoke(nil))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, p := range []*process{a, b, c} {
			p.knows("revoked", first, identity.ErrRevoked)
			p.finds("revoked", "")
		}
	})
}

// TestReplayOfEarlierDescriptorsRollsNothingBack has Mallory, whom all know, repeat what Alice has said.
func TestReplayOfEarlierDescriptorsRollsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		a := w.start(alice, nil, bob, mallory)
		b := w.start(bob, nil, alice, mallory)
		m := w.start(mallory, nil, alice, bob)
		old := a.register(alice, named("old"))
		time.Sleep(time.Second)
		a.register(alice, named("new"))
		time.Sleep(time.Second)
		m.tell(gossip.Encode(old))
		time.Sleep(time.Second)
		b.finds("replayed", "new")
		if err := a.service.Withdraw(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		m.tell(gossip.Encode(old, old))
		time.Sleep(time.Second)
		b.finds("replayed after the withdrawal", "")
	})
}

func TestForgedDescriptorsAndRubbishAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		a := w.start(alice, nil, bob)
		b := w.start(bob, nil, alice, mallory)
		m := w.start(mallory, nil, alice, bob)
		raw := a.register(alice, named("a"))
		time.Sleep(time.Second)
		forged := bytes.ReplaceAll(bytes.Clone(raw), alice.PublicKey(), mallory.PublicKey())
		altered := bytes.Replace(bytes.Clone(raw), []byte("a"), []byte("x"), 1)
		before := b.gossip.Stats()
		m.tell(gossip.Encode(forged, altered, []byte("rubbish"), nil))
		for _, body := range []string{"", "rubbish", "\x83\x01\x00", "\x83\x02\x00\x80", "\x83\x01\x02\x80", "\x83\x01\x00\x80\x00"} {
			m.tell([]byte(body))
		}
		time.Sleep(time.Second)
		b.finds("attacked", "a")
		after := b.gossip.Stats()
		if got := after.Refused - before.Refused; got != 3 {
			t.Errorf("%d items were refused; want 3", got)
		}
		if after.Old == before.Old { // what was altered says that it is what is known, and is not looked at
			t.Error("no item was old")
		}
		if got := after.Malformed - before.Malformed; got != 6 {
			t.Errorf("%d messages were malformed; want 6", got)
		}
	})
}

// TestUnverifiedSenderIsNotHeard sends as an agent that nobody knows.
func TestUnverifiedSenderIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		b := w.start(bob, nil, alice)
		m := w.start(mallory, nil, alice, bob)
		m.register(mallory, named("m"))
		time.Sleep(10 * time.Second)
		b.finds("a stranger speaks", "")
	})
}

// TestFloodOfMadeUpIdentitiesIsBounded: one peer brings in so many agents and no more, and honest ones stay.
func TestFloodOfMadeUpIdentitiesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		few := func(c *gossip.Config) { c.Introduced = 5 }
		a := w.start(alice, few, bob, mallory)
		b := w.start(bob, few, alice, mallory, carol)
		m := w.start(mallory, nil, alice, bob)
		a.register(alice, named("a"))
		time.Sleep(time.Second)
		for i := range 100 {
			m.register(agent(byte(100+i)), named("made-up"))
		}
		time.Sleep(20 * time.Second)
		if known := b.service.Stats().Known; known > 1+2*5 { // Mallory's, and those that Alice passes on of her five
			t.Errorf("%d agents are known", known)
		}
		c := w.start(carol, few, bob)
		c.register(carol, named("c"))
		time.Sleep(5 * time.Second)
		if d, err := b.service.Lookup(t.Context(), carol.ID()); err != nil || d.Name != "c" {
			t.Errorf("an honest newcomer after the flood: %v", err)
		}
		if d, err := b.service.Lookup(t.Context(), alice.ID()); err != nil || d.Name != "a" {
			t.Errorf("an honest agent after the flood: %v", err)
		}
	})
}

// TestPeerThatFloodsIsHeardWithinItsAllowance, and leaves room for others.
func TestPeerThatFloodsIsHeardWithinItsAllowance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		b := w.start(bob, nil, alice, mallory)
		a := w.start(alice, nil, bob)
		m := w.start(mallory, nil, bob)
		time.Sleep(time.Second)
		var forged [][]byte
		for i := range gossip.MaxItems {
			id := agent(byte(100 + i))
			raw := m.register(id, named("x"))
			raw[len(raw)-1] ^= 1
			forged = append(forged, raw)
		}
		for range 100 {
			m.tell(gossip.Encode(forged...))
		}
		a.register(alice, named("a"))
		time.Sleep(time.Second)
		if d, err := b.service.Lookup(t.Context(), alice.ID()); err != nil || d.Name != "a" {
			t.Errorf("Alice is not heard for the flood: %v", err)
		}
	})
}

// TestTalkIsBounded: with nothing new to say, next to nothing is said, and what everybody has heard is said a
// few times, not by everybody.
func TestTalkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires(t)
		var all []*process
		var ids []*identity.Identity
		for i := range 10 {
			ids = append(ids, agent(byte(100+i)))
		}
		for _, id := range ids {
			all = append(all, w.start(id, nil, ids...))
		}
		time.Sleep(time.Minute)
		sent := func() (n int) {
			for _, p := range all {
				p.mu.Lock()
				n += p.sent
				p.mu.Unlock()
			}
			return n
		}
		before := sent()
		all[0].register(ids[0], named("x"))
		time.Sleep(5 * time.Second)
		for _, p := range all {
			p.finds("told", "x")
		}
		if n := sent() - before; n > 8 {
			t.Errorf("%d messages for one change among ten", n)
		}
		before = sent()
		time.Sleep(10 * time.Minute)
		if n := sent() - before; n > 50 {
			t.Errorf("%d messages in ten idle minutes of ten processes", n)
		}
	})
}

func TestNewNamesTheFieldAtFault(t *testing.T) {
	send := func(context.Context, message.Draft) error { return nil }
	s := must(memory.New(memory.Config{}))
	defer s.Close()
	service := must(discovery.New(discovery.Config{Store: s, Network: network}))
	for field, c := range map[string]gossip.Config{
		"Service":    {Send: send},
		"Send":       {Service: service},
		"Relay":      {Service: service, Send: send, Relay: -1},
		"Introduced": {Service: service, Send: send, Introduced: -1},
	} {
		if _, err := gossip.New(c); err == nil || !strings.HasPrefix(err.Error(), "gossip.Config."+field+": ") {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}
