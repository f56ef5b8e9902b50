package task_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// lateStore answers who changes something after all watchers have heard of it.
type lateStore struct{ store.Store }

func (l lateStore) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	written, err := l.Store.Put(ctx, key, value, rev)
	time.Sleep(time.Second)
	return written, err
}

// countedKeys counts how often somebody wants a key, which is once for each signature.
type countedKeys struct {
	task.KeySource
	asked atomic.Int64
}

func (c *countedKeys) Lookup(id identity.ID) (identity.Key, error) {
	c.asked.Add(1)
	return c.KeySource.Lookup(id)
}

func newLate(t *testing.T, keys *countedKeys, options ...func(*task.Config)) *task.Manager {
	t.Helper()
	registry := identity.NewRegistry(0)
	for _, id := range []*identity.Identity{ann, ben} {
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	keys.KeySource = registry
	v, err := task.NewVerifier(keys, network)
	if err != nil {
		t.Fatal(err)
	}
	options = append(options, func(c *task.Config) { c.Verifier, c.UnsignedUnsafe = v, false })
	return newManager(t, lateStore{newStore(t)}, options...)
}

// A store that tells of a change before it answers has nobody read what he has just written.
func TestOwnChangesAreNotVerifiedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys countedKeys
		m := newLate(t, &keys)
		var r recorder
		defer m.Attach(r.listen)()
		spec := task.Spec{ID: "t", Kind: "work", MaxAttempts: 3, Backoff: task.Backoff{Base: time.Millisecond}}
		if errs := signerOf(t, ann).SignSpecs(&spec); errs != nil {
			t.Fatal(errs)
		}
		if _, err := m.Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		r.want(t, "t pending 0")
		if n := keys.asked.Swap(0); n != 1 {
			t.Errorf("a submission was verified with %d keys", n)
		}

		failed := by(t, ben, task.Failure(claimedBy(t, m, "t", ben), "no"))
		r.want(t, "t assigned 1")
		if _, err := m.End(t.Context(), failed); err != nil {
			t.Fatal(err)
		}
		r.want(t, "t pending 1", "t pending 1") // once more when it is ready
		done := by(t, ben, task.Completion(claimedBy(t, m, "t", ben), []byte("yes"), ""))
		r.want(t, "t assigned 2")
		if _, err := m.End(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		r.want(t, "t completed 2")
		if n := keys.asked.Load(); n != 2 {
			t.Errorf("two endings were verified with %d keys", n)
		}
		if left := m.Visible(profileOf(ben), 10); len(left) != 0 {
			t.Errorf("%d tasks are left", len(left))
		}
		_, err := m.End(t.Context(), done)
		wantIs(t, err, task.ErrTerminal)
	})
}

// Of several who change a task at the same time one wins, whatever the others have under way.
func TestOwnChangesThatLoseAreNotTakenForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys countedKeys
		m := newLate(t, &keys, func(c *task.Config) { c.Member = everybody })
		var r recorder
		defer m.Attach(r.listen)()
		spec := task.Spec{ID: "t", Kind: "work"}
		if errs := signerOf(t, ann).SignSpecs(&spec); errs != nil {
			t.Fatal(errs)
		}
		if _, err := m.Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		r.want(t, "t pending 0")
		won := make(chan task.Claim, 2)
		for _, id := range []*identity.Identity{ben, ann} {
			go func() {
				c, _, err := m.Claim(t.Context(), "t", profileOf(id))
				if err == nil {
					won <- c
				} else {
					wantIs(t, err, task.ErrNotPending)
				}
			}()
		}
		time.Sleep(5 * time.Second)
		r.want(t, "t assigned 1")
		if len(won) != 1 {
			t.Fatalf("%d have won", len(won))
		}
		c := <-won
		if k, err := m.Get(t.Context(), "t"); err != nil || k.Claimant != c.Agent {
			t.Errorf("the winner is %v, and %v was told so: %v", k.Claimant, c.Agent, err)
		}
		if _, err := m.Heartbeat(t.Context(), c); err != nil {
			t.Error(err)
		}
		r.want(t, "t assigned 1")
	})
}
