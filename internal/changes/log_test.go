package changes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// put makes changes of keys that follow the revision last.
func put(last store.Revision, keys ...string) []*changes.Change {
	var all []*changes.Change
	for _, key := range keys {
		last++
		c := changes.Put(key, nil)
		c.Revision = last
		all = append(all, c)
	}
	return all
}

// follower collects what it is told.
type follower struct {
	got []string
	end error
}

func follow(ctx context.Context, l *changes.Log, prefix string, after store.Revision) *follower {
	f := new(follower)
	go func() {
		f.end = l.Follow(ctx, prefix, after, func(c *changes.Change) bool {
			f.got = append(f.got, fmt.Sprint(c.Key(), c.Revision))
			return c.Key() != "stop"
		})
	}()
	return f
}

func (f *follower) want(t *testing.T, end error, got ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(f.got, got) || !errors.Is(f.end, end) {
		t.Errorf("a follower got %q and %v, want %q and %v", f.got, f.end, got, end)
	}
}

func TestFollowGivesWhatIsDueAndWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(100, 1<<20, 7)
		l.Add(put(7, "a", "b", "a")...)
		all, some, late := follow(t.Context(), l, "", 7), follow(t.Context(), l, "a", 8), follow(t.Context(), l, "", 10)
		all.want(t, nil, "a8", "b9", "a10")
		some.want(t, nil, "a10")
		late.want(t, nil)
		l.Add(put(10, "b", "a", "stop")...)
		all.want(t, nil, "a8", "b9", "a10", "b11", "a12", "stop13")
		some.want(t, nil, "a10", "a12")
		late.want(t, nil, "b11", "a12", "stop13")
		l.Close(store.ErrClosed)
		some.want(t, store.ErrClosed, "a10", "a12")
	})
}

func TestRevisionsThatAreNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(100, 1<<20, 7)
		follow(t.Context(), l, "", 6).want(t, store.ErrCompacted)
		follow(t.Context(), l, "", 8).want(t, store.ErrCompacted)
		l.Add(put(7, "stop")...)
		follow(t.Context(), l, "", 6).want(t, store.ErrCompacted)
		follow(t.Context(), l, "", 7).want(t, nil, "stop8")
	})
}

// Whoever has seen a change before it is in the log may follow from there, and misses nothing.
func TestFollowFromAnExpectedRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(100, 1<<20, 0)
		l.Expect(2)
		f := follow(t.Context(), l, "", 2)
		follow(t.Context(), l, "", 3).want(t, store.ErrCompacted)
		f.want(t, nil)
		l.Add(put(0, "a", "b")...)
		f.want(t, nil)
		l.Add(put(2, "stop")...)
		f.want(t, nil, "stop3")
		l.Expect(5)
		l.Expect(3) // it did not happen
		follow(t.Context(), l, "", 4).want(t, store.ErrCompacted)
	})
}

// A follower that waits is carried along; one that does not come falls off.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(4, 1<<20, 0)
		waiting := follow(t.Context(), l, "stop", 0)
		synctest.Wait()
		for i := range store.Revision(50) {
			l.Add(put(i, "a")...)
		}
		follow(t.Context(), l, "", 45).want(t, store.ErrCompacted)
		l.Add(put(50, "stop")...)
		waiting.want(t, nil, "stop51")
		follow(t.Context(), l, "", 47).want(t, nil, "a48", "a49", "a50", "stop51")

		large := changes.Put("stop", make([]byte, 2<<20))
		large.Revision = 52
		l.Add(large)
		follow(t.Context(), l, "", 50).want(t, store.ErrCompacted)
		follow(t.Context(), l, "", 51).want(t, nil, "stop52") // the newest stays, whatever its size
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(4, 1<<20, 0)
		cause := errors.New("no more")
		ctx, cancel := context.WithCancelCause(t.Context())
		f := follow(ctx, l, "", 0)
		f.want(t, nil)
		cancel(cause)
		f.want(t, cause)
		l.Add(put(0, "a")...) // wakes nobody
		follow(ctx, l, "", 0).want(t, cause)
	})
}

func TestOnlyTheFirstCloseCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changes.New(4, 1<<20, 0)
		f := follow(t.Context(), l, "", 0)
		synctest.Wait()
		first := errors.New("first")
		l.Close(first)
		l.Close(store.ErrClosed)
		l.Add(put(0, "a")...)
		f.want(t, first)
		follow(t.Context(), l, "", 9).want(t, first)
	})
}

// TestPutCopies covers what fills the memory of a change to the last byte, and what does not.
func TestPutCopies(t *testing.T) {
	for size := range 2000 {
		value := bytes.Repeat([]byte("v"), size)
		c, want := changes.Put("key", value), string(value)
		clear(value)
		e := c.Entry()
		if e.Key != "key" || string(e.Value) != want || e.Value == nil || c.Deleted || c.Size() != int64(3+size) {
			t.Errorf("Put of %d bytes gives %.80v", size, e)
		}
		if c.Key() != "key" || string(c.Value()) != want || cap(c.Value()) != size {
			t.Errorf("a change of %d bytes has key %q and %.80v with room for %d", size, c.Key(), c.Value(), cap(c.Value()))
		}
		c.Revision = 7
		if got := c.TextEvent(); got != (store.TextEvent{Op: store.OpPut, Key: "key", Value: want, Revision: 7}) {
			t.Errorf("the change of %d bytes is told as %.80v", size, got)
		}
	}
	gone := changes.Delete("a")
	gone.Revision = 2
	if got := gone.TextEvent(); got != (store.TextEvent{Op: store.OpDelete, Key: "a", Revision: 2}) || got.Entry().Value != nil {
		t.Errorf("a deletion is told as %v", got)
	}
}

func TestEventsAreCopies(t *testing.T) {
	c := changes.Put("a", []byte("value"))
	clear(c.Event().Entry.Value)
	clear(c.Entry().Value)
	if ev := c.Event(); string(ev.Entry.Value) != "value" || ev.Op != store.OpPut {
		t.Errorf("event %v", ev)
	}
	gone := changes.Delete("a")
	gone.Revision = 2
	if ev := gone.Event(); ev.Entry.Value != nil || ev.Op != store.OpDelete || ev.Entry.Revision != 2 {
		t.Errorf("event %v", ev)
	}
	if changes.Clone(nil) == nil {
		t.Error("the clone of an empty value is nil")
	}
}

// A change has no pointers, so the garbage collector must not lose one with what is behind it, wherever one holds
// its key or value alone.
func TestKeysAndValuesKeepTheirChange(t *testing.T) {
	var keys []string
	var values [][]byte
	for i := range 2000 {
		c := changes.Put(fmt.Sprint("key", i), fmt.Append(nil, "value", i))
		if keys = append(keys, c.Key()); i%2 == 0 {
			values = append(values, c.Value())
		} else {
			values = append(values, nil)
		}
		if i%500 == 0 {
			runtime.GC()
		}
	}
	runtime.GC()
	for i := range keys {
		if i%2 == 0 && string(values[i]) != fmt.Sprint("value", i) || keys[i] != fmt.Sprint("key", i) {
			t.Fatalf("number %d is %q, %q", i, keys[i], values[i])
		}
	}
}
