package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/converge-agents/converge/store"
)

// watcher pulls the events of a Watch one by one.
type watcher struct {
	t    *testing.T
	pull func() (store.Event, error, bool)
}

func watch(t *testing.T, s store.Store, prefix string, after store.Revision) watcher {
	pull, stop := iter.Pull2(s.Watch(t.Context(), prefix, after))
	t.Cleanup(stop)
	return watcher{t, pull}
}

// next waits for an event.
func (w watcher) next() store.Event {
	w.t.Helper()
	ev, err, ok := w.pull()
	if err != nil || !ok {
		w.t.Fatalf("Watch ends with %v", err)
	}
	return ev
}

// err waits for an error and for the end that must follow it.
func (w watcher) err() error {
	w.t.Helper()
	ev, err, ok := w.pull()
	if err == nil {
		w.t.Fatalf("Watch gives %v, %t where an error is due", ev, ok)
	}
	if ev.Op != "" || ev.Entry.Key != "" {
		w.t.Fatalf("Watch yields %v along with the error %v", ev, err)
	}
	if _, again, ok := w.pull(); ok {
		w.t.Fatalf("Watch goes on after the error %v with %v", err, again)
	}
	return err
}

// want checks the next events, each written as "put key value", "delete key" or "synced".
func (w watcher) want(events ...string) {
	w.t.Helper()
	for _, want := range events {
		ev := w.next()
		if got := text(ev); got != want {
			w.t.Fatalf("Watch gives %q, want %q", got, want)
		}
		if (ev.Entry.Value == nil) != (ev.Op != store.OpPut) {
			w.t.Fatalf("the value of %q is %#v", want, ev.Entry.Value)
		}
	}
}

func text(ev store.Event) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", ev.Op, ev.Entry.Key, ev.Entry.Value))
}

func testWatchFromZero(t *testing.T, s store.Store) {
	empty := watch(t, s, "", 0)
	empty.want("synced")

	b := put(t, s, "b", "1", 0)
	a := put(t, s, "a", "1", 0)
	gone := put(t, s, "gone", "1", 0)
	remove(t, s, "gone", gone)
	w := watch(t, s, "", 0)
	w.want("put a 1", "put b 1")
	synced := w.next()
	if text(synced) != "synced" || synced.Entry.Revision < gone {
		t.Fatalf("Watch gives %v after the snapshot, want synced at %d or later", synced, gone)
	}

	a = put(t, s, "a", "2", a)
	put(t, s, "c", "", 0)
	remove(t, s, "b", b)
	live := w.next()
	if text(live) != "put a 2" || live.Entry.Revision != a {
		t.Fatalf("Watch gives %v, want put a 2 at %d", live, a)
	}
	w.want("put c")
	if ev := w.next(); text(ev) != "delete b" || ev.Entry.Revision <= a || ev.Entry.Revision == b {
		t.Fatalf("Watch gives %v, want delete b at a revision of its own", ev)
	}
	empty.want("put b 1", "put a 1", "put gone 1", "delete gone", "put a 2", "put c", "delete b")

	watch(t, s, "", synced.Entry.Revision).want("put a 2", "put c", "delete b")
}

func testWatchPrefixes(t *testing.T, s store.Store) {
	all, folder, one := watch(t, s, "", 0), watch(t, s, "a/", 0), watch(t, s, "a/b", 0)
	for _, w := range []watcher{all, folder, one} {
		w.want("synced")
	}
	keys := []string{"a", "a-", "a.b", "a/b", "a/c", "a0", "b"}
	for _, key := range keys {
		put(t, s, key, "", 0)
	}
	put(t, s, "a/b/c", "", 0)
	remove(t, s, "a/c", revisionOf(t, s, "a/c"))
	for _, key := range keys {
		all.want("put " + key)
	}
	all.want("put a/b/c", "delete a/c")
	folder.want("put a/b", "put a/c", "put a/b/c", "delete a/c")
	one.want("put a/b", "put a/b/c")
}

func testWatchFromRevision(t *testing.T, s store.Store) {
	revisions := []store.Revision{put(t, s, "w/0", "", 0)}
	var want []string
	for i := 1; i < 20; i++ {
		revisions = append(revisions, put(t, s, fmt.Sprintf("w/%d", i), "", 0))
		put(t, s, fmt.Sprintf("other/%d", i), "", 0)
		want = append(want, fmt.Sprintf("put w/%d", i))
	}
	remove(t, s, "w/0", revisions[0])
	want = append(want, "delete w/0")
	for i, rev := range revisions {
		watch(t, s, "w/", rev).want(want[i:]...)
	}

	w := watch(t, s, "w/", revisions[19])
	w.want("delete w/0")
	put(t, s, "w/live", "", 0)
	w.want("put w/live")
}

func testWatchFromUnknownRevision(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "", 0)
	wantError(t, "Watch from a revision to come", watch(t, s, "", rev+1000).err(), store.ErrCompacted)
}

// testWatchersUnderLoad has writers at work while watchers come from 0 and from a revision. Each must see
// every change after its start, in order, and end with the same picture of the store.
func testWatchersUnderLoad(t *testing.T, s store.Store) {
	const writers, rounds = 4, churnRounds
	start := put(t, s, "load/start", "", 0)
	var all sync.WaitGroup
	pictures := make([]map[string]store.Revision, 4)
	for i := range pictures {
		after := []store.Revision{0, start}[i%2]
		w := watch(t, s, "load/", after)
		pictures[i] = map[string]store.Revision{}
		all.Go(func() { follow(t, w, pictures[i]) })
	}
	var load sync.WaitGroup
	for w := range writers {
		load.Go(func() { churn(t, s, fmt.Sprintf("load/%d", w), rounds) })
	}
	load.Wait()
	put(t, s, "load/end", "", 0)
	all.Wait()

	entries, err := collect(s.List(t.Context(), "load/"))
	if err != nil {
		t.Fatal(err)
	}
	for i, picture := range pictures {
		delete(picture, "load/start") // those from a revision do not get it
		if len(picture) != len(entries)-1 {
			t.Errorf("watcher %d knows %d keys, the store has %d", i, len(picture), len(entries)-1)
		}
		for _, e := range entries {
			if e.Key != "load/start" && picture[e.Key] != e.Revision {
				t.Errorf("watcher %d has %s at %d, the store at %d", i, e.Key, picture[e.Key], e.Revision)
			}
		}
	}
}

// follow applies events to a picture of the store until "load/end" comes. Writers alternate between
// creating and deleting a key, so a gap shows as two of the same kind in a row.
func follow(t *testing.T, w watcher, picture map[string]store.Revision) {
	var last store.Revision
	live := false
	for {
		ev, err, _ := w.pull()
		if err != nil {
			t.Errorf("Watch ends with %v", err)
			return
		}
		e := ev.Entry
		if ev.Op == store.OpSynced {
			live, last = true, e.Revision
			continue
		}
		if live && e.Revision <= last {
			t.Errorf("revision %d follows %d", e.Revision, last)
		}
		last = e.Revision
		if _, present := picture[e.Key]; present == (ev.Op == store.OpPut) {
			t.Errorf("%s of %s at %d, which is present: %t", ev.Op, e.Key, e.Revision, present)
		}
		if delete(picture, e.Key); ev.Op == store.OpPut {
			picture[e.Key] = e.Revision
		}
		if e.Key == "load/end" {
			return
		}
	}
}

func churn(t *testing.T, s store.Store, folder string, rounds int) {
	for i := range rounds {
		key := fmt.Sprintf("%s/%d", folder, i%7)
		rev, err := s.Put(t.Context(), key, nil, 0)
		if err == nil && i < rounds-7 {
			err = s.Delete(t.Context(), key, rev)
		}
		if err != nil {
			t.Errorf("churn of %s: %v", key, err)
			return
		}
	}
}

func testWatchBodyMayWrite(t *testing.T, s store.Store) {
	put(t, s, "a", "0", 0)
	for ev, err := range s.Watch(t.Context(), "a", 0) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Op == store.OpSynced {
			continue
		}
		if string(ev.Entry.Value) == "5" {
			return
		}
		put(t, s, "a", string(ev.Entry.Value[0]+1), ev.Entry.Revision)
	}
	t.Error("Watch ends without an error")
}

// RunCompaction tests a store that keeps a bounded number of changes. open makes one that keeps at most
// 16, under the same terms as for [Run].
func RunCompaction(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("OldRevision", func(t *testing.T) {
		t.Parallel()
		s := open(t)
		defer s.Close()
		old := put(t, s, "a/0", "", 0)
		fill(t, s, "b/", 64)
		wantError(t, "Watch from a forgotten revision", watch(t, s, "a/", old).err(), store.ErrCompacted)
		recent := put(t, s, "a/1", "", 0)
		put(t, s, "a/2", "", 0)
		watch(t, s, "a/", recent).want("put a/2")
		watch(t, s, "a/", 0).want("put a/0", "put a/1", "put a/2", "synced")
	})
	t.Run("SlowWatcher", func(t *testing.T) {
		t.Parallel()
		s := open(t)
		defer s.Close()
		w := watch(t, s, "", 0)
		w.want("synced")
		fill(t, s, "a/", 2048)
		wantError(t, "Watch that was left behind", drain(w), store.ErrCompacted)
	})
}

// drain reads what the store had handed out before the watcher fell behind, and returns the error.
func drain(w watcher) error {
	for range 1024 {
		if _, err, ok := w.pull(); err != nil || !ok {
			return err
		}
	}
	return errors.New("1,024 events and no error")
}

func fill(t *testing.T, s store.Store, folder string, n int) {
	t.Helper()
	spread(n, func(i int) { putOrError(t, s, fmt.Sprintf("%s%04d", folder, i)) })
}

func testCancelEndsWatch(t *testing.T, s store.Store) {
	put(t, s, "a", "", 0)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	ready := make(chan struct{}, 3)
	for _, prefix := range []string{"", "a", "b"} {
		go func() { ended <- watchUntilError(ctx, s, prefix, ready) }()
	}
	for range cap(ready) {
		<-ready
	}
	cancel()
	for range cap(ended) {
		wantError(t, "cancelled Watch", <-ended, context.Canceled)
	}
	wantKeys(t, s, "", "a")
}

// watchUntilError reports on ready when the snapshot is complete.
func watchUntilError(ctx context.Context, s store.Store, prefix string, ready chan<- struct{}) error {
	for ev, err := range s.Watch(ctx, prefix, 0) {
		if err != nil {
			return err
		}
		if ev.Op == store.OpSynced {
			ready <- struct{}{}
		}
	}
	return errors.New("the watch ended without an error")
}

func testCancelledContext(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "1", 0)
	ctx := cancelled(t)
	_, err := s.Get(ctx, "a")
	wantError(t, "cancelled Get", err, context.Canceled)
	_, err = s.Put(ctx, "b", nil, 0)
	wantError(t, "cancelled Put", err, context.Canceled)
	wantError(t, "cancelled Delete", s.Delete(ctx, "a", rev), context.Canceled)
	_, err = collect(s.List(ctx, ""))
	wantError(t, "cancelled List", err, context.Canceled)
	wantError(t, "cancelled Watch", watchUntilError(ctx, s, "", nil), context.Canceled)
	entries, err := collect(s.List(t.Context(), ""))
	if keys := keysOf(entries); err != nil || !slices.Equal(keys, []string{"a"}) {
		t.Fatalf("after cancelled calls the store holds %q, %v", keys, err)
	}
}
