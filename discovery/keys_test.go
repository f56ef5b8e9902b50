package discovery_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// rotated returns the identity that follows id, whose root key signs the statement.
func rotated(root, id *identity.Identity, r identity.Rotation) *identity.Identity {
	r.Current = id.Statement()
	return must(root.Rotate(r))
}

func TestDescriptorOfAnOperationalKeyIsVerifiedByItsStatement(t *testing.T) {
	first := rotated(alice, alice, identity.Rotation{})
	d := described(alice)
	d.Statement = first.Statement()
	raw := must(discovery.Sign(first, d))
	got, err := discovery.Open(raw)
	if err != nil || !sameDescriptor(got, d) || !got.Key.Equal(alice.PublicKey()) {
		t.Errorf("opened %+v, %v", got, err)
	}
	if _, err := discovery.Sign(alice, d); err == nil {
		t.Error("the root key signs under a statement about another key")
	}
	if _, err := discovery.Sign(first, described(alice)); err == nil {
		t.Error("the operational key signs without its statement")
	}
}

func TestStatementThatIsNotTheAgentsIsForged(t *testing.T) {
	first := rotated(alice, alice, identity.Rotation{})
	other := rotated(mallory, mallory, identity.Rotation{})
	revoked := must(alice.Revoke(first.Statement()))
	flipped := first.Statement()
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		signer    *identity.Identity
		statement []byte
	}{
		"Mallory's key under Alice's statement": {mallory, first.Statement()},
		"Mallory's statement in Alice's name":   {other, other.Statement()},
		"a statement that is altered":           {first, flipped},
		"a statement that revokes":              {first, revoked},
		"rubbish":                               {first, []byte("rubbish")},
		"the root key, once there is another":   {alice, first.Statement()},
		"the operational key, no statement":     {first, nil},
	} {
		t.Run(name, func(t *testing.T) {
			payload := by(alice)
			if c.statement != nil {
				payload = payload.with(labelStatement, c.statement)
			}
			refuses(t, signed(c.signer, kid(alice), payload.encode()), discovery.ErrForged)
		})
	}
}

// TestRotationSpreadsThroughTheStore has a registry follow an agent to its next key while it is known, and
// accept nothing of the stolen key after that.
func TestRotationSpreadsThroughTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, alice, discovery.Descriptor{Name: "root"})
		p.knows("root key", alice)
		first := rotated(alice, alice, identity.Rotation{})
		register(t, agents, first, discovery.Descriptor{Name: "first"})
		p.knows("operational key", first)
		second := rotated(alice, first, identity.Rotation{NoOverlap: true})
		register(t, agents, second, discovery.Descriptor{Name: "second"})
		p.knows("the next", second)
		if _, err := p.registry.LookupEpoch(alice.ID(), 1); !errors.Is(err, identity.ErrEpoch) {
			t.Errorf("the stolen key: %v", err)
		}

		time.Sleep(time.Second)
		theft := described(alice)
		theft.Statement, theft.Name, theft.Sequence = first.Statement(), "stolen", 1<<63
		theft.Issued, theft.Expires = time.Now(), time.Now().Add(24*time.Hour)
		overwrite(t, s, keyOf(alice), must(discovery.Sign(first, theft)))
		p.knows("the stolen key speaks up", second)
		if d := must(p.service.Lookup(t.Context(), alice.ID())); d.Name != "second" {
			t.Errorf("found as %q", d.Name)
		}
		register(t, agents, second, discovery.Descriptor{Name: "renewed"})
		synctest.Wait()
		if d := must(p.service.Lookup(t.Context(), alice.ID())); d.Name != "renewed" {
			t.Errorf("after the theft and a renewal found as %q", d.Name)
		}
	})
}

// TestStolenKeyCannotUseUpTheSequencesOfTheNext has the thief leave the highest sequence that there is.
func TestStolenKeyCannotUseUpTheSequencesOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		first := rotated(alice, alice, identity.Rotation{})
		theft := described(alice)
		theft.Statement, theft.Sequence, theft.Withdrawn = first.Statement(), 1<<64-1, true
		theft.Issued, theft.Expires = time.Now(), time.Now().Add(24*time.Hour)
		overwrite(t, s, keyOf(alice), must(discovery.Sign(first, theft)))
		p.knows("withdrawn by the thief")
		if _, err := agents.Register(t.Context(), first, discovery.Descriptor{}); err == nil {
			t.Error("registered with a sequence that there is not")
		}
		second := rotated(alice, first, identity.Rotation{NoOverlap: true})
		register(t, agents, second, discovery.Descriptor{})
		p.knows("back with the next key", second)
		if _, err := agents.Register(t.Context(), first, discovery.Descriptor{}); !errors.Is(err, identity.ErrRolledBack) {
			t.Errorf("the thief registers: %v", err)
		}
	})
}

// TestStoreThatRollsBackAStatementIsNotBelieved has it show descriptors and statements of earlier keys.
func TestStoreThatRollsBackAStatementIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		rogue := &failing{Store: s}
		agents, p := on(t, s), populate(t, rogue)
		first := rotated(alice, alice, identity.Rotation{})
		second := rotated(alice, first, identity.Rotation{NoOverlap: true})
		register(t, agents, alice, discovery.Descriptor{})
		root := entryOf(t, s, alice)
		register(t, agents, first, discovery.Descriptor{})
		before := entryOf(t, s, alice)
		register(t, agents, second, discovery.Descriptor{})
		p.knows("second", second)
		for _, old := range [][]byte{before, root} {
			lose(t, s, alice)
			overwrite(t, s, keyOf(alice), old)
			p.knows("an earlier descriptor comes back")
			rogue.interrupt(store.ErrCompacted)
			p.knows("to a new watch")
		}
		overwrite(t, s, statementKeyOf(alice), first.Statement())
		synctest.Wait()
		if got := p.registry.Statement(alice.ID()); string(got) != string(second.Statement()) {
			t.Error("the registry went back to an earlier statement")
		}
	})
}

func statementKeyOf(id *identity.Identity) string {
	return "discovery/" + network + "/-keys/" + id.ID().String()
}

// TestRevocationOfAnAgentThatRunsNoMoreIsInForceWithinASecond publishes the statement alone.
func TestRevocationOfAnAgentThatRunsNoMoreIsInForceWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, alice, described(alice))
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("before", alice, bob)
		var told []identity.Change
		defer p.registry.OnChange(func(c identity.Change) {
			told = append(told, c)
			must(p.service.Query(t.Context(), discovery.Query{})) // may look agents up
		})()
		revocation := must(alice.Revoke(nil))
		if err := agents.PublishStatement(t.Context(), revocation); err != nil {
			t.Fatal(err)
		}
		p.knows("revoked", bob)
		if len(told) != 1 || told[0].Kind != identity.Revoked {
			t.Errorf("told of %v", told)
		}
		expectNotFound(t, p.service, alice, "revoked")
		expectNotFound(t, newService(t, s, discovery.Config{}), alice, "revoked, for a service that lists")
		populate(t, s).knowsNow("a registry that starts later", bob)
		if _, err := agents.Register(t.Context(), alice, described(alice)); err != nil {
			t.Fatal(err)
		}
		p.knows("the revoked agent registers again", bob)
	})
}

func TestPublishStatementTakesNoStepBack(t *testing.T) {
	s := newStore(t)
	agents := newService(t, s, discovery.Config{})
	first := rotated(alice, alice, identity.Rotation{})
	second := rotated(alice, first, identity.Rotation{})
	fork := rotated(alice, first, identity.Rotation{})
	for i, c := range []struct {
		raw  []byte
		want error
	}{
		{[]byte("rubbish"), identity.ErrStatement},
		{second.Statement(), nil},
		{second.Statement(), nil},
		{first.Statement(), identity.ErrRolledBack},
		{fork.Statement(), identity.ErrQuarantined},
		{must(alice.Revoke(nil)), nil},
		{second.Statement(), identity.ErrRevoked},
	} {
		if err := agents.PublishStatement(t.Context(), c.raw); !errors.Is(err, c.want) {
			t.Errorf("%d: %v; want %v", i, err, c.want)
		}
	}
}

// TestReleasedAgentIsFoundAgain has the store show a contradiction, and a person look.
func TestReleasedAgentIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		first := rotated(alice, alice, identity.Rotation{})
		register(t, agents, first, described(first))
		p.knows("before", first)
		overwrite(t, s, statementKeyOf(alice), rotated(alice, alice, identity.Rotation{}).Statement())
		p.knows("quarantined")
		if all := p.service.Quarantined(); len(all) != 1 || all[0].ID != alice.ID() {
			t.Errorf("quarantined: %v", all)
		}
		if p.service.Release(bob.ID()) || !p.service.Release(alice.ID()) || p.service.Release(alice.ID()) {
			t.Error("not released once")
		}
		p.knowsNow("released", first)
		if all := p.service.Quarantined(); all != nil {
			t.Errorf("released: %v", all)
		}
	})
}

// TestStatementsOfStrangersDoNotFillTheRegistry has Mallory publish statements of identities that are nobody.
func TestStatementsOfStrangersDoNotFillTheRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		registry := identity.NewRegistry(2)
		agents := on(t, s)
		p := populateRegistry(t, s, registry)
		for i := range 20 {
			nobody := agent(byte(100 + i))
			overwrite(t, s, statementKeyOf(nobody), rotated(nobody, nobody, identity.Rotation{}).Statement())
			overwrite(t, s, statementKeyOf(agent(byte(150+i))), rotated(nobody, nobody, identity.Rotation{}).Statement()) // in another's place
		}
		first := rotated(alice, alice, identity.Rotation{})
		register(t, agents, first, discovery.Descriptor{})
		register(t, agents, bob, discovery.Descriptor{})
		p.knows("after the flood", first, bob)
	})
}

// TestNextKeyIsKnownBeforeItIsUsed publishes a statement that is in force later.
func TestNextKeyIsKnownBeforeItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents, p := on(t, s), populate(t, s)
		register(t, agents, alice, discovery.Descriptor{})
		next := rotated(alice, alice, identity.Rotation{NotBefore: time.Now().Add(time.Minute)})
		if err := agents.PublishStatement(t.Context(), next.Statement()); err != nil {
			t.Fatal(err)
		}
		p.knows("before it is in force", alice)
		register(t, agents, alice, discovery.Descriptor{})
		time.Sleep(55 * time.Second)
		register(t, agents, next, discovery.Descriptor{})
		time.Sleep(5 * time.Second)
		p.knows("in force", next)
	})
}
