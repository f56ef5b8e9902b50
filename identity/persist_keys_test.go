package identity_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
)

func (s *scene) save(to store.Store) {
	s.Helper()
	if err := s.registry.Save(s.Context(), to); err != nil {
		s.Fatal(err)
	}
}

// restarted is the scene with a registry that knows what the store holds.
func (s *scene) restarted(from store.Store) *scene {
	s.Helper()
	r := registryAt(s.clock)
	if err := r.Load(s.Context(), from); err != nil {
		s.Fatal(err)
	}
	return &scene{s.T, s.clock, r, s.root}
}

func TestHighestSequenceSurvivesRestarts(t *testing.T) {
	s, kept := newScene(t), newStore(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{NoOverlap: true})
	s.apply(first.Statement())
	s.save(kept)
	s.apply(second.Statement())
	s.save(kept)
	s = s.restarted(kept)
	s.wantCurrent(second)
	if _, err := s.registry.Apply(first.Statement()); !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("rolled back: %v", err)
	}
	s.wantNoKey(first, identity.ErrEpoch)
}

// TestSavingDoesNotRollTheStoreBack has a process that is behind save after one that knows more.
func TestSavingDoesNotRollTheStoreBack(t *testing.T) {
	s, behind, kept := newScene(t), newScene(t), newStore(t)
	first := s.rotate(s.root, identity.Rotation{})
	second := s.rotate(first, identity.Rotation{})
	s.apply(second.Statement())
	behind.apply(first.Statement())
	s.save(kept)
	behind.save(kept)
	behind.wantCurrent(second) // and has learned
	s.restarted(kept).wantCurrent(second)
}

func TestRevocationSurvivesRestartsAndForget(t *testing.T) {
	s, kept := newScene(t), newStore(t)
	raw, err := s.root.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.apply(raw)
	s.save(kept)
	if err := s.registry.Forget(t.Context(), kept, s.root.ID()); err != nil {
		t.Fatal(err)
	}
	s = s.restarted(kept)
	s.wantNoKey(s.root, identity.ErrRevoked)
	register(t, s.registry, s.root)
	s.wantNoKey(s.root, identity.ErrRevoked)
}

func TestQuarantineSurvivesRestartsUntilReleased(t *testing.T) {
	s, kept := newScene(t), newStore(t)
	one, other := s.rotate(s.root, identity.Rotation{}), s.rotate(s.root, identity.Rotation{})
	s.apply(one.Statement())
	s.registry.Apply(other.Statement())
	s.save(kept)
	s = s.restarted(kept)
	s.wantNoKey(one, identity.ErrQuarantined)
	s.registry.Release(one.ID())
	s.save(kept)
	s = s.restarted(kept)
	s.wantCurrent(one)
	if _, err := s.registry.Apply(other.Statement()); !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("the other one: %v", err)
	}
}

// TestSaverKeepsWhatBecomesOfAQuarantine has the saver of a process that runs see an agent quarantined, and released.
func TestSaverKeepsWhatBecomesOfAQuarantine(t *testing.T) {
	s, kept := newScene(t), newStore(t)
	one, other := s.rotate(s.root, identity.Rotation{}), s.rotate(s.root, identity.Rotation{})
	saver := identity.NewSaver(s.registry, kept)
	save := func() {
		t.Helper()
		if err := saver.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.apply(one.Statement())
	save()
	s.registry.Apply(other.Statement())
	save()
	restarted := s.restarted(kept)
	restarted.wantNoKey(one, identity.ErrQuarantined)
	if all := restarted.registry.Quarantined(); len(all) != 1 || all[0].ID != one.ID() {
		t.Errorf("quarantined after a restart: %v", all)
	}
	s.registry.Release(one.ID())
	save()
	s.restarted(kept).wantCurrent(one)
}

// TestStoreCannotForgeStatements offers what a hostile store could put there.
func TestStoreCannotForgeStatements(t *testing.T) {
	s, kept := newScene(t), newStore(t)
	victim, mallory := s.root, fromSeed(t, 2)
	foreign, err := mallory.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(items ...any) []byte {
		b := cose.AppendArray(nil, len(items))
		for _, item := range items {
			switch item := item.(type) {
			case int:
				b = cose.AppendInt(b, int64(item))
			case []byte:
				b = cose.AppendBytes(b, item)
			}
		}
		return b
	}
	good := s.rotate(s.root, identity.Rotation{}).Statement()
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	key := func(id *identity.Identity) string { return store.Key("keys", id.ID().String()) }
	for name, value := range map[string][]byte{
		"another agent's":       entry(1, foreign, []byte{}, 0),
		"forged":                entry(1, forged, []byte{}, 0),
		"contradiction forged":  entry(1, good, forged, 0),
		"another's as contrary": entry(1, good, foreign, 0),
		"nothing":               {},
		"version 0":             entry(0, good, []byte{}, 0),
		"too few items":         entry(1, good, []byte{}),
		"released from nothing": entry(1, good, []byte{}, 1),
		"rubbish after it":      append(entry(1, good, []byte{}, 0), 0),
	} {
		kept := newStore(t)
		put(t, kept, key(victim), value)
		r := registryAt(s.clock)
		register(t, r, victim)
		if err := r.Load(t.Context(), kept); err == nil {
			t.Errorf("%s: loaded", name)
		}
		if _, err := r.Lookup(victim.ID()); err != nil {
			t.Errorf("%s: the agent suffers: %v", name, err)
		}
		if err := r.Save(t.Context(), kept); err != nil {
			t.Errorf("%s: save: %v", name, err)
		}
	}
	put(t, kept, key(victim), entry(2, good, []byte{}, 0))
	if err := registryAt(s.clock).Load(t.Context(), kept); !errors.Is(err, identity.ErrKeysVersion) {
		t.Errorf("newer version: %v", err)
	}
	s.apply(good)
	if err := s.registry.Save(t.Context(), kept); !errors.Is(err, identity.ErrKeysVersion) {
		t.Errorf("save over a newer version: %v", err)
	}
}

// FuzzLoadKeys holds that no entry of a store makes a registry believe what the root key did not sign.
func FuzzLoadKeys(f *testing.F) {
	root := fromSeed(f, 1)
	one, other := sign(f, root, statement(root, fromSeed(f, 2))), sign(f, root, statement(root, fromSeed(f, 3)))
	for _, contrary := range [][]byte{nil, other} {
		b := cose.AppendUint(cose.AppendArray(nil, 4), 1)
		b = cose.AppendBytes(cose.AppendBytes(b, one), contrary)
		f.Add(cose.AppendUint(b, 0))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		kept, c := newStore(t), &clock{now: noon}
		put(t, kept, store.Key("keys", root.ID().String()), value)
		r := registryAt(c)
		register(t, r, root)
		err := r.Load(t.Context(), kept)
		raw := r.Statement(root.ID())
		if raw != nil && !bytes.Equal(raw, one) && !bytes.Equal(raw, other) {
			t.Fatalf("nobody signed %x", raw)
		}
		if _, lookup := r.Lookup(root.ID()); raw == nil && (lookup != nil || err == nil) {
			t.Fatalf("%v, %v", lookup, err)
		}
	})
}
