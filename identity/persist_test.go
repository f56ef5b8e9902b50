package identity_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

func TestSavedAgentsAreLoaded(t *testing.T) {
	ctx, s := t.Context(), newStore(t)
	a, b := fromSeed(t, 1), fromSeed(t, 2)
	saved := identity.NewRegistry(0)
	register(t, saved, a, b)
	for range 2 { // saving twice is fine
		if err := saved.Save(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	loaded := identity.NewRegistry(0)
	if err := loaded.Load(ctx, s); err != nil {
		t.Fatal(err)
	}
	if loaded.Len() != 2 {
		t.Errorf("%d agents", loaded.Len())
	}
	if key, err := loaded.Lookup(b.ID()); err != nil || !key.Public.Equal(b.PublicKey()) {
		t.Errorf("lookup: %x, %v", key.Public, err)
	}
}

func TestForgedAndDamagedEntriesAreNotLoaded(t *testing.T) {
	ctx, s := t.Context(), newStore(t)
	honest, victim, attacker := fromSeed(t, 1), fromSeed(t, 2), fromSeed(t, 3)
	weak := unhex(t, lowOrderKeys[0])
	damaged := honest.PublicKey()
	damaged[7] ^= 0x10
	bad := map[string][]byte{
		store.Key("identity", victim.ID().String()):                  attacker.PublicKey(),
		store.Key("identity", identity.IDOf(weak).String()):          weak,
		store.Key("identity", fromSeed(t, 4).ID().String()):          damaged,
		store.Key("identity", fromSeed(t, 5).ID().String()):          fromSeed(t, 5).PublicKey()[:31],
		store.Key("identity", fromSeed(t, 6).ID().String()):          nil,
		store.Key("identity", "mallory"):                             attacker.PublicKey(),
		store.Key("identity", strings.ToUpper(victim.ID().String())): victim.PublicKey(),
		store.Key("identity", victim.ID().String(), "x"):             victim.PublicKey(),
	}
	for key, value := range bad {
		put(t, s, key, value)
	}
	put(t, s, store.Key("identity", honest.ID().String()), honest.PublicKey())
	put(t, s, store.Key("identityx", victim.ID().String()), victim.PublicKey()) // somebody else's entry

	r := identity.NewRegistry(0)
	err := r.Load(ctx, s)
	if !errors.Is(err, identity.ErrKeyMismatch) || !errors.Is(err, identity.ErrWeakKey) {
		t.Errorf("load: %v", err)
	}
	for key := range bad {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("the error does not name %q", key)
		}
	}
	if _, err := r.Lookup(honest.ID()); err != nil || r.Len() != 1 {
		t.Errorf("%d agents; the honest one: %v", r.Len(), err)
	}
}

func TestLoadBeyondTheBoundReportsErrFull(t *testing.T) {
	s := newStore(t)
	saved := identity.NewRegistry(0)
	register(t, saved, fromSeed(t, 1), fromSeed(t, 2), fromSeed(t, 3))
	if err := saved.Save(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	r := identity.NewRegistry(2)
	if err := r.Load(t.Context(), s); !errors.Is(err, identity.ErrFull) || r.Len() != 2 {
		t.Errorf("%d agents, %v", r.Len(), err)
	}
}

func TestForgottenAgentsStayForgotten(t *testing.T) {
	ctx, s := t.Context(), newStore(t)
	a, b := fromSeed(t, 1), fromSeed(t, 2)
	r := identity.NewRegistry(0)
	register(t, r, a, b)
	if err := r.Save(ctx, s); err != nil {
		t.Fatal(err)
	}
	for range 2 { // forgetting twice is fine
		if err := r.Forget(ctx, s, a.ID()); err != nil {
			t.Fatal(err)
		}
	}
	loaded := identity.NewRegistry(0)
	if err := loaded.Load(ctx, s); err != nil {
		t.Fatal(err)
	}
	for name, registry := range map[string]*identity.Registry{"old": r, "loaded": loaded} {
		if _, err := registry.Lookup(a.ID()); !errors.Is(err, identity.ErrUnknown) || registry.Len() != 1 {
			t.Errorf("%s: %d agents, %v", name, registry.Len(), err)
		}
	}
}

func TestFailingStoreIsReported(t *testing.T) {
	broken := brokenStore{newStore(t)}
	a := fromSeed(t, 1)
	r := identity.NewRegistry(0)
	register(t, r, a)
	if err := r.Save(t.Context(), broken); !errors.Is(err, errBroken) {
		t.Errorf("save: %v", err)
	}
	if err := r.Load(t.Context(), broken); !errors.Is(err, errBroken) {
		t.Errorf("load: %v", err)
	}
	if err := r.Forget(t.Context(), broken, a.ID()); !errors.Is(err, errBroken) {
		t.Errorf("forget: %v", err)
	}
	if r.Len() != 0 {
		t.Error("an agent whose entry cannot be deleted is still trusted")
	}
}

var errBroken = errors.New("broken")

type brokenStore struct{ store.Store }

func (brokenStore) Get(context.Context, string) (store.Entry, error) {
	return store.Entry{}, errBroken
}

func (brokenStore) Put(context.Context, string, []byte, store.Revision) (store.Revision, error) {
	return 0, errBroken
}

func (brokenStore) List(context.Context, string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, errBroken) }
}

func newStore(t *testing.T) store.Store {
	t.Helper()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t *testing.T, s store.Store, key string, value []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, value, 0); err != nil {
		t.Fatal(err)
	}
}
