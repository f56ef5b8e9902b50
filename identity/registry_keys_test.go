package identity_test

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// scene is a registry at noon that knows an agent by its root key.
type scene struct {
	*testing.T
	clock    *clock
	registry *identity.Registry
	root     *identity.Identity
}

func newScene(t *testing.T) *scene {
	c := &clock{now: noon}
	s := &scene{t, c, registryAt(c), fromSeed(t, 1)}
	register(t, s.registry, s.root)
	return s
}

func registryAt(c *clock) *identity.Registry {
	return identity.NewRegistryWith(identity.RegistryConfig{Now: c.Now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

// rotate returns the next identity of the agent; its statement is not applied.
func (s *scene) rotate(from *identity.Identity, r identity.Rotation) *identity.Identity {
	s.Helper()
	r.Current = from.Statement()
	if r.NotBefore.IsZero() {
		r.NotBefore = s.clock.Now()
	}
	next, err := s.root.Rotate(r)
	if err != nil {
		s.Fatal(err)
	}
	return next
}

func (s *scene) apply(raw []byte) {
	s.Helper()
	if changed, err := s.registry.Apply(raw); err != nil || !changed {
		s.Fatalf("apply: %v, %v", changed, err)
	}
}

// wantKey expects that what id signs is verified under its own key.
func (s *scene) wantKey(id *identity.Identity) {
	s.Helper()
	if key, err := s.registry.LookupEpoch(id.ID(), id.Epoch()); err != nil || !key.Public.Equal(id.PublicKey()) || key.Epoch != id.Epoch() {
		s.Errorf("epoch %d: %x, %v", id.Epoch(), key.Public, err)
	}
}

func (s *scene) wantNoKey(id *identity.Identity, want error) {
	s.Helper()
	if key, err := s.registry.LookupEpoch(id.ID(), id.Epoch()); err != want || key.Public != nil {
		s.Errorf("epoch %d: %x, %v, want %v", id.Epoch(), key.Public, err, want)
	}
}

func (s *scene) wantCurrent(id *identity.Identity) {
	s.Helper()
	if key, err := s.registry.Lookup(id.ID()); err != nil || !key.Public.Equal(id.PublicKey()) || key.Epoch != id.Epoch() {
		s.Errorf("current key is %x of epoch %d, %v; want epoch %d", key.Public, key.Epoch, err, id.Epoch())
	}
}

func TestRotationKeepsTheIDAndChangesTheKey(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{Sealing: []byte("seal")})
	if first.ID() != s.root.ID() || first.Epoch() != 1 || first.PublicKey().Equal(s.root.PublicKey()) {
		t.Fatalf("%v, epoch %d", first, first.Epoch())
	}
	s.apply(first.Statement())
	s.wantCurrent(first)
	if key, _ := s.registry.Lookup(first.ID()); string(key.Sealing) != "seal" {
		t.Errorf("sealing key %q", key.Sealing)
	}
	second := s.rotate(first, identity.Rotation{})
	s.apply(second.Statement())
	s.wantCurrent(second)
	s.wantKey(first) // overlap
	s.wantKey(s.root)
	s.clock.set(noon.Add(identity.DefaultOverlap))
	s.wantNoKey(first, identity.ErrEpoch)
	s.wantNoKey(s.root, identity.ErrEpoch)
	s.wantCurrent(second)
	if changed, err := s.registry.Apply(second.Statement()); changed || err != nil {
		t.Errorf("applied twice: %v, %v", changed, err)
	}
}

// TestStolenKeyIsRefusedAfterTheOverlap has the thief of an operational key go on signing.
func TestStolenKeyIsRefusedAfterTheOverlap(t *testing.T) {
	s := newScene(t)
	stolen := s.rotate(s.root, identity.Rotation{})
	s.apply(stolen.Statement())
	next := s.rotate(stolen, identity.Rotation{Overlap: time.Minute})
	s.apply(next.Statement())
	s.clock.set(noon.Add(time.Minute - time.Millisecond))
	s.wantKey(stolen)
	s.clock.set(noon.Add(time.Minute))
	s.wantNoKey(stolen, identity.ErrEpoch)
	s.wantKey(next)
	if err := s.registry.Recheck(stolen.ID(), stolen.Epoch()); err != nil {
		t.Errorf("what came in time is dropped: %v", err)
	}
}

// TestStolenKeyIsRefusedAtOnceWithoutOverlap is the rotation of an emergency.
func TestStolenKeyIsRefusedAtOnceWithoutOverlap(t *testing.T) {
	s := newScene(t)
	stolen := s.rotate(s.root, identity.Rotation{})
	s.apply(stolen.Statement())
	next := s.rotate(stolen, identity.Rotation{NoOverlap: true})
	s.apply(next.Statement())
	s.wantNoKey(stolen, identity.ErrEpoch)
	s.wantKey(next)
	if err := s.registry.Recheck(stolen.ID(), stolen.Epoch()); err != identity.ErrEpoch {
		t.Errorf("what waits is used: %v", err)
	}
	if err := s.registry.Recheck(next.ID(), next.Epoch()); err != nil {
		t.Error(err)
	}
	s.wantNoKey(s.root, identity.ErrEpoch) // nor does any older key count
}

// TestOftenRotatedKeysAreBounded changes keys more often than the registry keeps them.
func TestOftenRotatedKeysAreBounded(t *testing.T) {
	s := newScene(t)
	all := []*identity.Identity{s.root}
	for range 10 {
		next := s.rotate(all[len(all)-1], identity.Rotation{})
		s.apply(next.Statement())
		all = append(all, next)
	}
	for i, id := range all {
		if i < 5 {
			s.wantNoKey(id, identity.ErrEpoch)
		} else {
			s.wantKey(id)
		}
	}
}

// TestReceiverThatMissedTheKeyBeforeKnowsItDuringTheOverlap starts a registry with the last statement alone.
func TestReceiverThatMissedTheKeyBeforeKnowsItDuringTheOverlap(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{})
	if _, err := s.registry.RegisterKeys(second.Statement()); err != nil {
		t.Fatal(err)
	}
	s.wantKey(first)
	s.wantKey(second)
}

func TestAnnouncedRotation(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	s.apply(first.Statement())
	second := s.rotate(first, identity.Rotation{NotBefore: noon.Add(time.Hour), Overlap: time.Minute})
	s.apply(second.Statement())
	s.wantCurrent(first)
	s.wantKey(first)
	s.wantNoKey(second, identity.ErrNotInForce)
	s.clock.set(noon.Add(time.Hour - identity.KeySkew)) // from an agent whose clock is ahead
	s.wantKey(second)
	s.wantCurrent(first)
	s.clock.set(noon.Add(time.Hour))
	s.wantCurrent(second)
	s.wantKey(first)
	s.clock.set(noon.Add(time.Hour + time.Minute))
	s.wantNoKey(first, identity.ErrEpoch)
}

func TestExpiredStatementEndsTheKey(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{Lifetime: time.Hour})
	s.apply(first.Statement())
	s.clock.set(noon.Add(time.Hour - time.Millisecond))
	s.wantKey(first)
	if err := first.CheckTime(s.clock.Now()); err != nil {
		t.Error(err)
	}
	s.clock.set(noon.Add(time.Hour))
	s.wantNoKey(first, identity.ErrNotInForce)
	s.wantNoKey(s.root, identity.ErrEpoch)
	if _, err := s.registry.Lookup(first.ID()); err != identity.ErrNotInForce {
		t.Errorf("lookup: %v", err)
	}
	if err := first.CheckTime(s.clock.Now()); !errors.Is(err, identity.ErrNotInForce) {
		t.Errorf("check time: %v", err)
	}
	// A key that has run out is rotated like any other.
	s.apply(s.rotate(first, identity.Rotation{}).Statement())
}

func TestStatementIsNotRolledBack(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{NoOverlap: true})
	s.apply(first.Statement())
	s.apply(second.Statement())
	if changed, err := s.registry.Apply(first.Statement()); changed || !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("applied: %v, %v", changed, err)
	}
	// Nor by way of leaving and coming back with the root key.
	s.registry.Unregister(s.root.ID())
	s.wantNoKey(second, identity.ErrUnknown)
	register(t, s.registry, s.root)
	s.wantCurrent(second)
	s.wantNoKey(first, identity.ErrEpoch)
	s.wantNoKey(s.root, identity.ErrEpoch)
	// Nor by letting the agent in with the old statement.
	if _, err := s.registry.RegisterKeys(first.Statement()); err != nil {
		t.Errorf("register with an old statement: %v", err)
	}
	s.wantCurrent(second)
	s.wantNoKey(first, identity.ErrEpoch)
}

func TestRevocationIsForGood(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{})
	third := s.rotate(second, identity.Rotation{})
	s.apply(second.Statement())
	old, err := s.root.Revoke(first.Statement()) // whoever revokes need not have the last statement
	if err != nil {
		t.Fatal(err)
	}
	s.apply(old)
	for _, id := range []*identity.Identity{s.root, first, second, third} {
		s.wantNoKey(id, identity.ErrRevoked)
	}
	if _, err := s.registry.Lookup(s.root.ID()); err != identity.ErrRevoked {
		t.Errorf("lookup: %v", err)
	}
	if err := s.registry.Recheck(second.ID(), second.Epoch()); err != identity.ErrRevoked {
		t.Errorf("what waits is used: %v", err)
	}
	if _, err := s.registry.Apply(third.Statement()); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("a later statement: %v", err)
	}
	again, err := s.root.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := s.registry.Apply(again); changed || err != nil {
		t.Errorf("revoked twice: %v, %v", changed, err)
	}
	s.registry.Unregister(s.root.ID())
	register(t, s.registry, s.root)
	s.wantNoKey(s.root, identity.ErrRevoked)
	if _, err := s.root.Rotate(identity.Rotation{Current: old}); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("a revoked key was rotated: %v", err)
	}
}

// TestRevocationBeforeTheAgentIsKnown has the statement come first.
func TestRevocationBeforeTheAgentIsKnown(t *testing.T) {
	s := newScene(t)
	other := fromSeed(t, 9)
	raw, err := other.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.apply(raw)
	register(t, s.registry, other)
	s.wantNoKey(other, identity.ErrRevoked)
}

// TestStatementLetsNobodyIn has a stranger sign a statement about itself.
func TestStatementLetsNobodyIn(t *testing.T) {
	s := newScene(t)
	stranger := fromSeed(t, 9)
	working, err := stranger.Rotate(identity.Rotation{NotBefore: noon})
	if err != nil {
		t.Fatal(err)
	}
	s.apply(working.Statement())
	s.wantNoKey(working, identity.ErrUnknown)
	s.wantNoKey(stranger, identity.ErrUnknown)
	if s.registry.Len() != 1 {
		t.Errorf("%d agents are in", s.registry.Len())
	}
	register(t, s.registry, stranger)
	s.wantCurrent(working)
}

func TestRootKeyThatContradictsItselfIsQuarantined(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{})
	sameSequence := s.rotate(first, identity.Rotation{})
	sameEpoch, err := identity.OpenKeys(sameSequence.Statement())
	if err != nil {
		t.Fatal(err)
	}
	sameEpoch.Sequence = 9
	otherBefore := changed(sameEpoch, func(s *identity.KeyStatement) { s.Epoch, s.Operational = 3, fromSeed(t, 7).PublicKey() })
	otherBefore.Previous = fromSeed(t, 8).PublicKey()
	for name, contradiction := range map[string][]byte{
		"same sequence":                  sameSequence.Statement(),
		"same epoch":                     sign(t, s.root, sameEpoch),
		"another key for the one before": sign(t, s.root, otherBefore),
	} {
		s := newScene(t)
		var told []identity.Change
		s.registry.OnChange(func(c identity.Change) { told = append(told, c) })
		s.apply(second.Statement())
		if changed, err := s.registry.Apply(contradiction); !changed || !errors.Is(err, identity.ErrQuarantined) {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
		for _, id := range []*identity.Identity{s.root, first, second, sameSequence} {
			s.wantNoKey(id, identity.ErrQuarantined)
		}
		third := s.rotate(second, identity.Rotation{})
		if _, err := s.registry.Apply(third.Statement()); !errors.Is(err, identity.ErrQuarantined) {
			t.Errorf("%s: whoever has the key talked itself out of it: %v", name, err)
		}
		if err := s.registry.Recheck(second.ID(), second.Epoch()); err != identity.ErrQuarantined {
			t.Errorf("%s: what waits is used: %v", name, err)
		}
		if !s.registry.Release(second.ID()) || s.registry.Release(second.ID()) {
			t.Errorf("%s: not released once", name)
		}
		s.wantCurrent(second)
		if _, err := s.registry.Apply(contradiction); !errors.Is(err, identity.ErrRolledBack) {
			t.Errorf("%s: the other one after the release: %v", name, err)
		}
		s.apply(third.Statement())
		s.wantCurrent(third)
		var kinds []identity.ChangeKind
		for _, c := range told {
			kinds = append(kinds, c.Kind)
		}
		if len(kinds) != 4 || kinds[1] != identity.Quarantined || kinds[2] != identity.Released || kinds[3] != identity.Rotated {
			t.Errorf("%s: told %v", name, kinds)
		}
	}
}

func TestQuarantinedAgentCanBeRevoked(t *testing.T) {
	s := newScene(t)
	one, other := s.rotate(s.root, identity.Rotation{}), s.rotate(s.root, identity.Rotation{})
	s.apply(one.Statement())
	s.registry.Apply(other.Statement())
	raw, err := s.root.Revoke(one.Statement())
	if err != nil {
		t.Fatal(err)
	}
	s.apply(raw)
	s.wantNoKey(one, identity.ErrRevoked)
}

// TestFloodOfStatementsFillsNothing holds the registry to its size, and has those who are in revoked all the same.
func TestFloodOfStatementsFillsNothing(t *testing.T) {
	c := &clock{now: noon}
	r := identity.NewRegistryWith(identity.RegistryConfig{Size: 3, Now: c.Now})
	victim := fromSeed(t, 1)
	register(t, r, victim)
	for seed := range byte(10) {
		working, err := fromSeed(t, 10+seed).Rotate(identity.Rotation{NotBefore: noon})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Apply(working.Statement()); seed < 2 && err != nil || seed >= 2 && !errors.Is(err, identity.ErrFull) {
			t.Errorf("statement %d: %v", seed, err)
		}
	}
	raw, err := victim.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := r.Apply(raw); !changed || err != nil {
		t.Errorf("revocation: %v, %v", changed, err)
	}
}

func TestChangesAreTold(t *testing.T) {
	s := newScene(t)
	var told []identity.Change
	stop := s.registry.OnChange(func(c identity.Change) {
		s.registry.Lookup(c.ID) // it may ask
		told = append(told, c)
	})
	first := s.rotate(s.root, identity.Rotation{})
	s.apply(first.Statement())
	s.registry.Apply(first.Statement()) // no news
	raw, err := s.root.Revoke(first.Statement())
	if err != nil {
		t.Fatal(err)
	}
	s.apply(raw)
	stop()
	stop()
	s.registry.Apply(first.Statement())
	want := []identity.Change{{s.root.ID(), identity.Rotated, 1}, {s.root.ID(), identity.Revoked, 1}}
	if len(told) != 2 || told[0] != want[0] || told[1] != want[1] {
		t.Errorf("told %v", told)
	}
	if got := want[1].Kind.String() + " " + identity.ChangeKind(77).String(); got != "revoked unknown" {
		t.Error(got)
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	s := newScene(t)
	working := s.rotate(s.root, identity.Rotation{})
	simple := fromSeed(t, 5)
	register(t, s.registry, simple)
	s.apply(working.Statement())
	if n := testing.AllocsPerRun(100, func() {
		s.registry.Lookup(working.ID())
		s.registry.LookupEpoch(working.ID(), 1)
		s.registry.LookupEpoch(working.ID(), 7)
		s.registry.LookupEpoch(simple.ID(), 0)
		s.registry.Recheck(working.ID(), 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookupEpoch(b *testing.B) {
	r := identity.NewRegistry(0)
	simple := fromSeed(b, 1)
	register(b, r, simple)
	working, err := fromSeed(b, 2).Rotate(identity.Rotation{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := r.RegisterKeys(working.Statement()); err != nil {
		b.Fatal(err)
	}
	for name, id := range map[string]*identity.Identity{"simple": simple, "rotated": working} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.LookupEpoch(id.ID(), id.Epoch()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestManyApplyAndLookAtTheSameTime is for the race detector, and for the sequence, which must not go back.
func TestManyApplyAndLookAtTheSameTime(t *testing.T) {
	s := newScene(t)
	var statements [][]byte
	at := s.root
	for range 20 {
		at = s.rotate(at, identity.Rotation{})
		statements = append(statements, at.Statement())
	}
	var working sync.WaitGroup
	for i := range 4 {
		working.Go(func() {
			for j := range statements {
				raw := statements[(i*5+j)%len(statements)]
				if _, err := s.registry.Apply(raw); err != nil && !errors.Is(err, identity.ErrRolledBack) {
					t.Error(err)
				}
				s.registry.LookupEpoch(at.ID(), uint64(j))
			}
		})
		working.Go(func() {
			for range 20 {
				s.registry.OnChange(func(identity.Change) {})()
				s.registry.Unregister(at.ID())
				register(t, s.registry, s.root)
			}
		})
	}
	working.Wait()
	s.wantCurrent(at)
}
