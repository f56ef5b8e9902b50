package converge_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

// tallying is an agent whose state is how many turns it has had, over all runs.
type tallying struct {
	turns, restored uint64
	refuse          error
	act             func() []converge.Decision
}

func (c *tallying) Decide(context.Context, converge.Turn) ([]converge.Decision, error) {
	c.turns++
	if c.act != nil {
		return c.act(), nil
	}
	return nil, nil
}

func (c *tallying) Checkpoint() ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, c.turns), nil
}

func (c *tallying) Restore(state []byte) error {
	if c.refuse != nil {
		return c.refuse
	}
	c.turns = binary.BigEndian.Uint64(state)
	c.restored = c.turns
	return nil
}

// changing is an agent that gives each state once.
type changing struct {
	tallying
	given uint64
}

func (c *changing) Checkpoint() ([]byte, error) {
	if c.given == c.turns {
		return nil, nil
	}
	c.given = c.turns
	return c.tallying.Checkpoint()
}

// unsteady is a store that refuses writes for as long as it is told to.
type unsteady struct {
	store.Store
	failing atomic.Bool
	lost    atomic.Bool // writes are made and then said to have failed
	slow    atomic.Bool // the next write takes until its context ends
}

var errDisk = errors.New("the disk is on fire")

func (u *unsteady) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if u.failing.Load() {
		return 0, errDisk
	}
	if u.slow.Swap(false) {
		<-ctx.Done()
		if !u.lost.Load() {
			return 0, ctx.Err()
		}
		ctx = context.WithoutCancel(ctx)
	}
	rev, err := u.Store.Put(ctx, key, value, rev)
	if u.lost.Swap(false) {
		return 0, errDisk
	}
	return rev, err
}

func newUnsteady(t *testing.T) *unsteady {
	s := must(memory.New(memory.Config{}))
	t.Cleanup(func() { s.Close() })
	return &unsteady{Store: s}
}

func TestAgentGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newWorld(t), newUnsteady(t)
		first := &tallying{}
		c := w.config(first)
		c.Checkpoints, c.TickEvery = kept, time.Second
		a := w.run(c)
		time.Sleep(3*time.Second + time.Millisecond)
		if err := a.end(); err != nil || first.restored != 0 {
			t.Fatalf("the first run ended with %v, restored from %d", err, first.restored)
		}
		second := &tallying{}
		c.Agent, c.Transport = second, w.network.Endpoint(c.Identity.ID())
		w.run(c)
		synctest.Wait()
		if second.restored != first.turns || second.turns != first.turns+1 {
			t.Errorf("the second run began with %d after %d and is at %d", second.restored, first.turns, second.turns)
		}
	})
}

// TestDecisionsWaitForTheCheckpoint has a store fail for a minute: nothing is done until the state that it
// rests on is written, and then it is done once.
func TestDecisionsWaitForTheCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newWorld(t), newUnsteady(t)
		var done atomic.Int32
		c := w.config(&tallying{act: func() []converge.Decision { return []converge.Decision{custom{"act"}} }})
		c.Checkpoints = kept
		c.Executor = &converge.ExecutorConfig{Handlers: map[string]converge.Handler{
			custom{}.Kind(): func(context.Context, converge.Decision) error { done.Add(1); return nil },
		}}
		kept.failing.Store(true)
		w.run(c)
		time.Sleep(time.Minute)
		if n := done.Load(); n != 0 {
			t.Errorf("acted %d times without checkpoint", n)
		}
		kept.failing.Store(false)
		kept.lost.Store(true) // an attempt that comes through, and is said not to have
		time.Sleep(time.Minute)
		if n := done.Load(); n != 1 {
			t.Errorf("acted %d times", n)
		}
	})
}

// TestStateThatIsBeingWrittenAtTheEndIsKept has an agent stopped amid a write, which comes through or not.
func TestStateThatIsBeingWrittenAtTheEndIsKept(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, kept := newWorld(t), newUnsteady(t)
			kept.slow.Store(true)
			kept.lost.Store(lost)
			c := w.config(&changing{})
			c.Checkpoints = kept
			first := w.run(c)
			synctest.Wait()
			if err := first.end(); err != nil {
				t.Fatalf("the first run ended with %v", err)
			}
			second := &changing{}
			c.Agent, c.Transport = second, w.network.Endpoint(c.Identity.ID())
			w.run(c)
			synctest.Wait()
			if second.restored != 1 {
				t.Errorf("with the write lost: %v, the second run began with turn %d", lost, second.restored)
			}
		})
	}
}

func TestSecondProcessOfAnAgentEndsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newWorld(t), newUnsteady(t)
		c := w.config(&tallying{})
		c.Checkpoints, c.TickEvery = kept, time.Second
		first := w.run(c)
		synctest.Wait()
		other := newWorld(t) // another machine
		c.Agent, c.Transport = &tallying{}, other.network.Endpoint(c.Identity.ID())
		second := other.run(c)
		time.Sleep(5 * time.Second)
		if err := <-first.err; !errors.Is(err, converge.ErrSuperseded) {
			t.Errorf("the first ended with %v", err)
		}
		if err := second.end(); err != nil {
			t.Errorf("the second ended with %v", err)
		}
	})
}

// TestAgentThatIsSupersededDoesNothingMore has the first process hear of the second one amid messages of which only the
// first one changes its state.
func TestAgentThatIsSupersededDoesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newWorld(t), newUnsteady(t)
		alice := w.peer()
		it := &changing{}
		var shown, acted int
		c := w.config(&hearing{changing: it, act: func(converge.Turn) []converge.Decision {
			time.Sleep(time.Second) // for the others to come
			if shown++; shown > 1 {
				it.given = it.turns // as before
			}
			return []converge.Decision{custom{"act"}}
		}})
		c.Checkpoints, c.TurnMessages = kept, 1
		c.Executor = &converge.ExecutorConfig{Handlers: map[string]converge.Handler{
			custom{}.Kind(): func(context.Context, converge.Decision) error { acted++; return nil },
		}}
		r := w.run(c)
		synctest.Wait()
		key, e := onlyEntry(t, kept)
		must(kept.Put(t.Context(), key, append(e.Value[:len(e.Value)-1:len(e.Value)-1], 0xff), e.Revision)) // the second process
		for range 3 {
			alice.say(r.ID(), "do it")
		}
		if err := <-r.err; !errors.Is(err, converge.ErrSuperseded) {
			t.Errorf("Run: %v", err)
		}
		if shown != 3 || acted != 0 {
			t.Errorf("it was shown %d messages, and acted %d times", shown, acted)
		}
	})
}

// hearing is an agent that acts on messages only.
type hearing struct {
	*changing
	act func(converge.Turn) []converge.Decision
}

func (h *hearing) Decide(ctx context.Context, t converge.Turn) ([]converge.Decision, error) {
	if _, err := h.changing.Decide(ctx, t); err != nil || len(t.Messages) == 0 {
		return nil, err
	}
	return h.act(t), nil
}

func TestCheckpointsThatCannotBeReadKeepTheAgentFromStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newWorld(t), newUnsteady(t)
		c := w.config(&tallying{})
		c.Checkpoints = kept
		settle(w.run(c))
		key, good := onlyEntry(t, kept)
		foreign := w.config(&tallying{})
		foreign.Checkpoints = newUnsteady(t)
		settle(w.run(foreign))
		_, others := onlyEntry(t, foreign.Checkpoints)
		newer := append([]byte{good.Value[0], 2}, good.Value[2:]...)
		for name, record := range map[string][]byte{
			"empty": {}, "truncated": good.Value[:len(good.Value)-1], "trailing": append(good.Value[:len(good.Value):len(good.Value)], 0),
			"newer": newer, "another agent's": others.Value, "garbage": []byte("garbage"),
		} {
			c.Checkpoints = newUnsteady(t)
			must(c.Checkpoints.Put(t.Context(), key, record, 0))
			c.Agent, c.Transport = &tallying{}, w.network.Endpoint(c.Identity.ID())
			if err := settle(w.run(c)); !errors.Is(err, converge.ErrCheckpoint) {
				t.Errorf("%s: the run ended with %v", name, err)
			}
		}
		c.Checkpoints, c.Agent, c.Transport = kept, &tallying{refuse: errDisk}, w.network.Endpoint(c.Identity.ID())
		if err := settle(w.run(c)); !errors.Is(err, errDisk) {
			t.Errorf("an agent that refuses its state: %v", err)
		}
	})
}

// settle stops an agent that has had its first turn.
func settle(a *agent) error {
	synctest.Wait()
	return a.end()
}

func onlyEntry(t *testing.T, s store.Store) (key string, e store.Entry) {
	t.Helper()
	n := 0
	for entry, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		key, e = entry.Key, entry
		n++
	}
	if n != 1 {
		t.Fatalf("%d entries", n)
	}
	return key, e
}
