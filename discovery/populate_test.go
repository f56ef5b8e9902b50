package discovery_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

// populated is a registry that is kept current, in a bubble of fake time.
type populated struct {
	t        *testing.T
	service  *discovery.Service // what the population reads
	registry *identity.Registry
	*discovery.Population
}

// populate begins on s, with agents in force for a minute.
func populate(t *testing.T, s store.Store) *populated {
	t.Helper()
	return populateRegistry(t, s, identity.NewRegistry(0))
}

func populateRegistry(t *testing.T, s store.Store, registry *identity.Registry) *populated {
	t.Helper()
	p := &populated{t: t, service: newService(t, s, discovery.Config{TTL: time.Minute}), registry: registry}
	var err error
	if p.Population, err = p.service.Populate(t.Context(), p.registry); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// knows wants exactly these agents in the registry, once everything has come to rest.
func (p *populated) knows(what string, want ...*identity.Identity) {
	p.t.Helper()
	synctest.Wait()
	p.knowsNow(what, want...)
}

func (p *populated) knowsNow(what string, want ...*identity.Identity) {
	p.t.Helper()
	for _, id := range want {
		if key, err := p.registry.Lookup(id.ID()); err != nil {
			p.t.Errorf("%s: the registry does not know %s", what, id)
		} else if !key.Public.Equal(id.PublicKey()) {
			p.t.Errorf("%s: the registry has a wrong key of %s", what, id)
		}
	}
	for id := range p.registry.All() {
		if !slices.ContainsFunc(want, func(w *identity.Identity) bool { return w.ID() == id }) {
			p.t.Errorf("%s: the registry knows %s", what, id)
		}
	}
}

// on returns a service through which agents publish: for a minute, on the store itself.
func on(t *testing.T, s store.Store) *discovery.Service {
	return newService(t, s, discovery.Config{TTL: time.Minute})
}

func TestFirstPassIsDoneWhenPopulateReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents := on(t, s)
		register(t, agents, alice, described(alice))
		register(t, agents, bob, discovery.Descriptor{})
		register(t, agents, carol, discovery.Descriptor{})
		withdraw(t, agents, carol)
		overwrite(t, s, keyOf(mallory), []byte("rubbish"))
		populate(t, s).knowsNow("at once", alice, bob)
	})
}

func TestAgentsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		p.knows("nobody has registered")
		register(t, agents, alice, discovery.Descriptor{})
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("registered", alice, bob)
		withdraw(t, agents, alice)
		p.knows("Alice withdrew", bob)
		register(t, agents, alice, discovery.Descriptor{})
		p.knows("Alice came back", alice, bob)
		lose(t, s, bob)
		p.knows("Bob's entry vanished", alice)
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("Bob renewed", alice, bob)
	})
}

func TestAgentIsRemovedWhenItsDescriptorExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, alice, discovery.Descriptor{})
		time.Sleep(30 * time.Second)
		register(t, agents, bob, discovery.Descriptor{})
		time.Sleep(30*time.Second - time.Millisecond)
		p.knows("before Alice's expiry", alice, bob)
		time.Sleep(time.Millisecond)
		p.knows("at Alice's expiry", bob)
		if _, err := agents.Renew(t.Context(), bob, discovery.Descriptor{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Millisecond)
		p.knows("Bob renewed", bob)
		time.Sleep(time.Millisecond)
		p.knows("at Bob's expiry")
	})
}

func TestAgentRegisteredByHandStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, registry := newStore(t), identity.NewRegistry(0)
		agents := on(t, s)
		for _, id := range []*identity.Identity{alice, bob, carol} {
			if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
				t.Fatal(err)
			}
		}
		register(t, agents, alice, discovery.Descriptor{})
		p := populateRegistry(t, s, registry)
		withdraw(t, agents, alice)
		p.knows("Alice withdrew", alice, bob, carol)
		register(t, agents, bob, discovery.Descriptor{})
		lose(t, s, bob)
		p.knows("Bob's entry vanished", alice, bob, carol)
		register(t, agents, carol, discovery.Descriptor{})
		time.Sleep(time.Hour)
		p.knows("everything expired", alice, bob, carol)
	})
}

// TestStoreThatAltersIsNotBelieved has every value pass through the hands of the store.
func TestStoreThatAltersIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents := on(t, s)
		register(t, agents, alice, described(alice))
		raw := entryOf(t, s, alice)
		p := populate(t, s)
		for i := range raw {
			altered := slices.Clone(raw)
			altered[i] ^= 0x10
			overwrite(t, s, keyOf(bob), altered)
			overwrite(t, s, keyOf(alice), altered)
		}
		for _, value := range [][]byte{
			signed(mallory, kid(bob), by(bob).encode()),
			signed(mallory, kid(mallory), by(bob).encode()),
			signed(lowOrder{}, kid(bob), by(bob).with(labelKey, []byte(lowOrder{}.key())).encode()),
		} {
			overwrite(t, s, keyOf(bob), value)
		}
		p.knows("altered", alice)
	})
}

func TestStoreThatSplicesIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, mallory, discovery.Descriptor{})
		overwrite(t, s, keyOf(bob), entryOf(t, s, mallory))
		p.knows("Mallory's descriptor in Bob's place", mallory)
		register(t, agents, alice, discovery.Descriptor{})
		overwrite(t, s, keyOf(bob), entryOf(t, s, alice))
		p.knows("Alice's descriptor in Bob's place", alice, mallory)
		withdraw(t, agents, mallory)
		overwrite(t, s, keyOf(alice), entryOf(t, s, mallory))
		p.knows("Mallory's tombstone in Alice's place", alice)
	})
}

// TestStoreThatRollsBackRevivesNobody puts an earlier descriptor in the place of a tombstone: to a watch
// that goes on, after a deletion, and to a watch that begins again.
func TestStoreThatRollsBackRevivesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		rogue := &failing{Store: s}
		agents, p := on(t, s), populate(t, rogue)
		register(t, agents, alice, discovery.Descriptor{})
		before := entryOf(t, s, alice)
		withdraw(t, agents, alice)
		p.knows("withdrawn")
		overwrite(t, s, keyOf(alice), before)
		p.knows("rolled back")
		lose(t, s, alice)
		overwrite(t, s, keyOf(alice), before)
		p.knows("deleted and put back")
		rogue.interrupt(store.ErrCompacted)
		p.knows("rolled back, to a new watch")
		lose(t, s, alice)
		rogue.interrupt(store.ErrCompacted)
		p.knows("deleted, to a new watch")
		overwrite(t, s, keyOf(alice), before)
		p.knows("deleted, to a new watch, and put back")
		time.Sleep(time.Minute)
		overwrite(t, s, keyOf(alice), before)
		p.knows("put back when it has expired")
	})
}

// TestRollbackBeyondAShorterDescriptorRevivesNobody has the newer descriptor run out before the older
// one that the store has kept.
func TestRollbackBeyondAShorterDescriptorRevivesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := populate(t, s)
		register(t, newService(t, s, discovery.Config{TTL: time.Hour}), alice, discovery.Descriptor{})
		long := entryOf(t, s, alice)
		p.knows("registered for an hour", alice)
		register(t, newService(t, s, discovery.Config{TTL: time.Second}), alice, discovery.Descriptor{})
		p.knows("renewed for a second", alice)
		time.Sleep(time.Second)
		p.knows("a second later")
		overwrite(t, s, keyOf(alice), long)
		p.knows("rolled back to the hour")
		time.Sleep(time.Hour)
		overwrite(t, s, keyOf(alice), long)
		p.knows("rolled back once the hour is over")
	})
}

func TestStoreThatKeepsAnExpiredAgentAliveIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, alice, discovery.Descriptor{})
		raw := entryOf(t, s, alice)
		for range 10 {
			time.Sleep(7 * time.Second)
			overwrite(t, s, keyOf(alice), raw) // as if it were a renewal
		}
		p.knows("put again and again")
		populate(t, s).knows("for a new population")
	})
}

// TestVandalDoesNotTakeAnAgentOffTheNetwork: what does not verify says nothing about the agent.
func TestVandalDoesNotTakeAnAgentOffTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		rogue := &failing{Store: s}
		agents, p := on(t, s), populate(t, rogue)
		register(t, agents, alice, discovery.Descriptor{})
		old := entryOf(t, s, alice)
		register(t, agents, alice, discovery.Descriptor{})
		p.knows("registered", alice)
		for what, value := range map[string][]byte{"rubbish": []byte("rubbish"), "a rollback": old} {
			overwrite(t, s, keyOf(alice), value)
			p.knows(what, alice)
			rogue.interrupt(store.ErrCompacted)
			p.knows(what+", to a new watch", alice)
		}
		time.Sleep(time.Minute)
		p.knows("it has expired")
		register(t, agents, alice, discovery.Descriptor{})
		p.knows("it is renewed", alice)
	})
}

func TestFailureOfTheFirstPassIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk on fire")
		s := newStore(t)
		register(t, on(t, s), alice, discovery.Descriptor{})
		registry := identity.NewRegistry(0)
		for name, err := range map[string]error{"broken": broken, "compacted": store.ErrCompacted, "closed": store.ErrClosed} {
			p, got := on(t, &failing{Store: s, watch: func() error { return err }}).Populate(t.Context(), registry)
			if !errors.Is(got, err) || p != nil {
				t.Errorf("%s: Populate: %v, %v", name, p, got)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(broken)
		if p, err := on(t, s).Populate(ctx, registry); !errors.Is(err, broken) || p != nil {
			t.Errorf("Populate, cancelled: %v, %v", p, err)
		}
	})
}

// TestFailingStoreIsRetriedWithBackoff: the registry meanwhile keeps what it has, up to its expiry.
func TestFailingStoreIsRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk on fire")
		var failed time.Time
		attempts := make(chan time.Duration, 100)
		made := func() (all []time.Duration) {
			for len(attempts) > 0 {
				all = append(all, <-attempts)
			}
			return all
		}
		var works atomic.Bool
		works.Store(true)
		s := newStore(t)
		rogue := &failing{Store: s, watch: func() error {
			if works.Load() {
				return nil
			}
			attempts <- time.Since(failed)
			return broken
		}}
		agents, p := on(t, s), populate(t, rogue)
		register(t, agents, alice, discovery.Descriptor{})
		p.knows("registered", alice)

		fail := func() {
			synctest.Wait()
			works.Store(false)
			failed = time.Now()
			made()
			rogue.interrupt(broken)
		}
		fail()
		register(t, newService(t, s, discovery.Config{TTL: time.Hour}), bob, discovery.Descriptor{})
		time.Sleep(30 * time.Second)
		p.knows("the store fails", alice)
		const ms = time.Millisecond
		want := []time.Duration{100 * ms, 300 * ms, 700 * ms, 1500 * ms, 3100 * ms, 6300 * ms, 12700 * ms, 22700 * ms}
		if got := made(); !slices.Equal(got, want) {
			t.Errorf("attempts after %v, want %v", got, want)
		}
		time.Sleep(30 * time.Second)
		p.knows("the store fails still")
		works.Store(true)
		time.Sleep(10 * time.Second)
		p.knows("the store works again", bob)

		fail() // the pauses are short again
		time.Sleep(time.Second)
		synctest.Wait()
		if got := made(); !slices.Equal(got, want[:3]) {
			t.Errorf("attempts after %v, want %v", got, want[:3])
		}
		works.Store(true)
		time.Sleep(time.Second)
		p.knows("the store works again", bob)
	})
}

func TestCompactedWatchBeginsAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		rogue := &failing{Store: s}
		agents, p := on(t, s), populate(t, rogue)
		register(t, agents, alice, discovery.Descriptor{})
		p.knows("registered", alice)
		rogue.snap = func() error { // what happens while nobody looks
			rogue.snap = nil
			lose(t, s, alice)
			register(t, agents, bob, discovery.Descriptor{})
			return store.ErrCompacted
		}
		rogue.interrupt(store.ErrCompacted)
		p.knows("compacted twice", bob)
	})
}

// TestStoreThatIsAlwaysCompactedDoesNotKeepACoreBusy never gets to a snapshot.
func TestStoreThatIsAlwaysCompactedDoesNotKeepACoreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var works atomic.Bool
		works.Store(true)
		s := newStore(t)
		var attempts atomic.Int64
		rogue := &failing{Store: s, watch: func() error {
			if works.Load() {
				return nil
			}
			attempts.Add(1)
			return store.ErrCompacted
		}}
		p := populate(t, rogue)
		works.Store(false)
		rogue.interrupt(store.ErrCompacted)
		time.Sleep(time.Minute)
		p.knows("nothing to know")
		if n := attempts.Load(); n < 5 || n > 15 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestAgentsExpireThoughTheStoreIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		register(t, on(t, s), alice, discovery.Descriptor{})
		p := populate(t, s)
		s.Close()
		p.knows("the store is closed", alice)
		time.Sleep(time.Minute)
		p.knows("a minute later")
	})
}

// TestEndedPopulationChangesNothingMore ends it in both ways.
func TestEndedPopulationChangesNothingMore(t *testing.T) {
	for name, end := range map[string]func(*discovery.Population, context.CancelFunc){
		"closed":       func(p *discovery.Population, _ context.CancelFunc) { p.Close() },
		"closed twice": func(p *discovery.Population, _ context.CancelFunc) { p.Close(); p.Close() },
		"cancelled":    func(_ *discovery.Population, cancel context.CancelFunc) { cancel(); synctest.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				agents := on(t, s)
				register(t, agents, alice, discovery.Descriptor{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				registry := identity.NewRegistry(0)
				ended := must(agents.Populate(ctx, registry))
				end(ended, cancel)
				p := &populated{t, agents, registry, ended}
				register(t, agents, bob, discovery.Descriptor{})
				withdraw(t, agents, alice)
				p.knows("agents came and went", alice)
				time.Sleep(time.Hour)
				p.knows("all descriptors expired", alice)
				ended.Close()
			})
		})
	}
}

func TestCloseWaitsForWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		inside, release := make(chan struct{}), make(chan struct{})
		rogue := &failing{Store: s}
		p := must(on(t, rogue).Populate(t.Context(), identity.NewRegistry(0)))
		synctest.Wait()
		rogue.watch = func() error { close(inside); <-release; return nil }
		rogue.interrupt(store.ErrCompacted)
		<-inside
		closed := false
		go func() { p.Close(); closed = true }()
		synctest.Wait()
		if closed {
			t.Error("Close returned while the store was being read")
		}
		close(release)
		synctest.Wait()
		if !closed {
			t.Error("Close does not return")
		}
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		wait := func(ctx context.Context, id *identity.Identity) <-chan error {
			done := make(chan error, 1)
			go func() { done <- p.Wait(ctx, id.ID()) }()
			return done
		}
		pending := func(done <-chan error) bool { synctest.Wait(); return len(done) == 0 }

		forAlice, forBob := wait(t.Context(), alice), wait(t.Context(), bob)
		if !pending(forAlice) || !pending(forBob) {
			t.Fatal("Wait returned for agents that nobody knows")
		}
		register(t, agents, alice, discovery.Descriptor{})
		if err := <-forAlice; err != nil {
			t.Error(err)
		}
		if !pending(forBob) {
			t.Error("Wait returned for the wrong agent")
		}
		if err := p.Wait(t.Context(), alice.ID()); err != nil {
			t.Error(err)
		}
		// Somebody else was faster to register Bob.
		if err := p.registry.Register(bob.ID(), bob.PublicKey()); err != nil {
			t.Fatal(err)
		}
		register(t, agents, bob, discovery.Descriptor{})
		if err := <-forBob; err != nil {
			t.Error(err)
		}

		cause := errors.New("no more patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
		defer cancel()
		if err := p.Wait(ctx, carol.ID()); !errors.Is(err, cause) {
			t.Errorf("Wait, out of time: %v", err)
		}
		forCarol := wait(t.Context(), carol)
		if !pending(forCarol) {
			t.Error("Wait returned")
		}
		p.Close()
		if err := <-forCarol; err == nil {
			t.Error("Wait reports no error when nobody populates the registry any more")
		}
	})
}

func TestFullRegistryTakesAnAgentWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populateRegistry(t, s, identity.NewRegistry(1))
		register(t, agents, alice, discovery.Descriptor{})
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("full", alice)
		withdraw(t, agents, alice)
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("there was room when Bob renewed", bob)
	})
}

// TestAgentsFindEachOther has two agents, each with a registry of its own that nobody types anything
// into, exchange messages that they verify.
func TestAgentsFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		wires := must(local.New(local.Config{}))
		join := func(id *identity.Identity) *peer { return newPeer(t, s, wires, id) }
		a, b := join(alice), join(bob)
		a.say(b, "who is there?")
		b.hearsNothing("before anybody has registered")

		register(t, a.service, alice, discovery.Descriptor{})
		register(t, b.service, bob, discovery.Descriptor{})
		for _, err := range []error{a.Wait(t.Context(), bob.ID()), b.Wait(t.Context(), alice.ID())} {
			if err != nil {
				t.Fatal(err)
			}
		}
		a.say(b, "ping")
		b.hears(alice, "ping")
		b.say(a, "pong")
		a.hears(bob, "pong")

		// Mallory can write to the store, and so be heard, but as herself only.
		m := join(mallory)
		overwrite(t, s, keyOf(alice), signed(mallory, kid(alice), by(mallory).encode()))
		m.say(b, "I am Alice")
		b.hearsNothing("from one who has not registered")
		register(t, m.service, mallory, discovery.Descriptor{Name: "Alice"})
		synctest.Wait()
		m.say(b, "I am Alice, am I not?")
		b.hears(mallory, "I am Alice, am I not?")

		withdraw(t, m.service, mallory)
		synctest.Wait()
		m.say(b, "still here")
		b.hearsNothing("after its withdrawal")
		a.say(b, "good riddance")
		b.hears(alice, "good riddance")
	})
}

// peer is an agent with a registry, a population, a signer and a verifier of its own.
type peer struct {
	*populated
	id *identity.Identity
	*transport.Hooked
	refused int
}

func newPeer(t *testing.T, s store.Store, wires *local.Network, id *identity.Identity) *peer {
	t.Helper()
	p := &peer{populated: populate(t, s), id: id}
	endpoint := wires.Endpoint(id.ID())
	if err := endpoint.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endpoint.Close() })
	p.Hooked = must(transport.NewHooked(transport.HookedConfig{
		Transport: endpoint,
		Signer:    must(message.NewSigner(message.SignerConfig{Identity: id, Network: network})),
		Verifier:  must(message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: network, Keys: p.registry})),
		UnverifiedDrop: func(context.Context, *message.Refusal) {
			p.refused++
		},
	}))
	return p
}

func (p *peer) say(to *peer, body string) {
	p.t.Helper()
	if _, err := p.Send(p.t.Context(), message.Draft{To: to.id.ID(), Body: []byte(body)}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) hears(from *identity.Identity, want string) {
	p.t.Helper()
	m, err := p.Receive(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if !m.Verified() || m.Sender() != from.ID() || string(m.Body()) != want {
		p.t.Errorf("heard %q from %s; want %q from %s", m.Body(), m.Sender().Short(), want, from)
	}
}

// hearsNothing wants what has come refused.
func (p *peer) hearsNothing(when string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Millisecond)
	defer cancel()
	before := p.refused
	if m, err := p.Receive(ctx); err == nil {
		p.t.Errorf("%s: heard %q", when, m.Body())
	}
	if p.refused != before+1 {
		p.t.Errorf("%s: %d frames refused", when, p.refused-before)
	}
}
