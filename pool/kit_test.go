package pool_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

// The cast. Alice owns pools; Mallory can write to the store.
var alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(66)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var quiet = slog.New(slog.DiscardHandler)

var secret = pool.Token("a token of more than 16 bytes")

func newStore(t testing.TB) *memory.Store {
	t.Helper()
	s := must(memory.New(memory.Config{}))
	t.Cleanup(func() { s.Close() })
	return s
}

// newManager returns a manager of the test network on s; options may change its configuration.
func newManager(t testing.TB, s store.Store, options ...func(*pool.Config)) *pool.Manager {
	t.Helper()
	c := pool.Config{Store: s, Network: network, Keys: identity.NewRegistry(0), Logger: quiet}
	for _, option := range options {
		option(&c)
	}
	m, err := pool.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// follow has the manager follow the store until the end of the test.
func follow(t testing.TB, m *pool.Manager) *pool.Manager {
	t.Helper()
	t.Cleanup(m.Attach(func(pool.Change) {}))
	return m
}

// inBoth runs a test with managers that follow the store, and with managers that read it each time.
func inBoth(t *testing.T, f func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager)) {
	for name, attach := range map[string]bool{"following": true, "reading": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				f(t, s, func(options ...func(*pool.Config)) *pool.Manager {
					m := newManager(t, s, options...)
					if attach {
						follow(t, m)
					}
					return m
				})
			})
		})
	}
}

func create(t testing.TB, m *pool.Manager, s pool.Spec) pool.Definition {
	t.Helper()
	d, err := m.Create(t.Context(), alice, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(name string) pool.Spec { return pool.Spec{Name: name, Admission: pool.Open} }

func join(t testing.TB, m *pool.Manager, id *identity.Identity, name string) {
	t.Helper()
	if _, err := m.Join(t.Context(), id, name, nil); err != nil {
		t.Fatal(err)
	}
}

func expectError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// expectMembers waits for what goes on in the bubble and compares.
func expectMembers(t testing.TB, m *pool.Manager, name string, want ...*identity.Identity) {
	t.Helper()
	synctest.Wait()
	var ids []identity.ID
	for _, s := range must(m.Members(t.Context(), name)) {
		ids = append(ids, s.Member)
	}
	for _, id := range want {
		if !slices.Contains(ids, id.ID()) || !m.IsMember(name, id.ID()) || !slices.Contains(m.Pools(id.ID()), name) {
			t.Errorf("agent %s is no member of %s: %v", id, name, ids)
		}
	}
	if len(ids) != len(want) {
		t.Errorf("%d members of %s, want %d", len(ids), name, len(want))
	}
	for _, id := range []*identity.Identity{alice, bob, carol, mallory} {
		if !slices.Contains(want, id) && (m.IsMember(name, id.ID()) || slices.Contains(m.Pools(id.ID()), name)) {
			t.Errorf("agent %s is a member of %s", id, name)
		}
	}
}

func definitionKey(name string) string { return store.Key("pool", network, "d", name) }

func memberKey(name string, id *identity.Identity) string {
	return store.Key("pool", network, "m", name, id.ID().String())
}

func entryOf(t testing.TB, s store.Store, key string) []byte {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value
}

// overwrite has the store hold value under key, whatever it held before.
func overwrite(t testing.TB, s store.Store, key string, value []byte) {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), key, value, e.Revision); err != nil {
		t.Fatal(err)
	}
}

// lose has the store forget an entry.
func lose(t testing.TB, s store.Store, key string) {
	t.Helper()
	e := must(s.Get(t.Context(), key))
	if err := s.Delete(t.Context(), key, e.Revision); err != nil {
		t.Fatal(err)
	}
}

// race runs fn in goroutines that start together, and returns their errors.
func race(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { <-start; errs[i] = fn(i) })
	}
	close(start)
	all.Wait()
	return errs
}

var background = context.Background()

// must2 is must for one topic among several.
func must2[T any](v T, err error) []T { return []T{must(v, err)} }

// agent2 returns one of very many agents.
func agent2(n int) *identity.Identity {
	return must(identity.FromSeed(append(make([]byte, 28), byte(n), byte(n>>8), byte(n>>16), 1)))
}
