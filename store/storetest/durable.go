package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/converge-agents/converge/store"
)

// RunDurable tests a store that outlives its process. open returns the store that lives at place, which
// is empty when the place is new, and after Close it returns the same store again. A place is the path
// of a new directory: a store of files keeps them there, and one on a server makes a name of it. Places
// are independent of each other, and their tests run in parallel.
//
// What the suite asks for: entries, their revisions and the counter of revisions survive; and a watch
// from a revision of an earlier life gives each change since then, or [store.ErrCompacted] where the
// store does not hold them, but never skips one. From the latest revision of an earlier life there is
// nothing to skip, and it must work.
func RunDurable(t *testing.T, open func(t *testing.T, place string) store.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, *life)
	}{
		{"EntriesSurvive", testEntriesSurvive},
		{"CompareAndSetSurvives", testCompareAndSetSurvives},
		{"RevisionsNeverGoBack", testRevisionsNeverGoBack},
		{"LargeValuesSurvive", testLargeValuesSurvive},
		{"WatchFromEarlierLife", testWatchFromEarlierLife},
		{"WatchFromLatestRevision", testWatchFromLatestRevision},
		{"WatchFromUnknownRevisionAfterReopen", testWatchFromUnknownAfterReopen},
		{"CloseUnderLoadLosesNothing", testCloseUnderLoadLosesNothing},
		{"InterruptedChangesAreWholeOrNotThere", testInterruptedChanges},
		{"ManyLives", testManyLives},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := &life{t: t, place: t.TempDir(), open: open}
			l.Store = open(t, l.place)
			defer func() { l.end() }()
			test.run(t, l)
		})
	}
}

// life is a store between an open and a Close.
type life struct {
	store.Store
	t     *testing.T
	place string
	open  func(t *testing.T, place string) store.Store
}

func (l *life) end() {
	l.t.Helper()
	if err := l.Close(); err != nil {
		l.t.Fatalf("Close: %v", err)
	}
}

// again closes the store and opens it again.
func (l *life) again() {
	l.t.Helper()
	l.end()
	l.Store = l.open(l.t, l.place)
}

func testEntriesSurvive(t *testing.T, l *life) {
	parts := []string{"a", "A", "", "../../etc/passwd", "'; DROP TABLE entries; --", "\xff\x00", "%", strings.Repeat("é", 60)}
	for i, part := range parts {
		put(t, l, store.Key("kept", part), fmt.Sprint(i), 0)
	}
	put(t, l, "replaced", "old", 0)
	put(t, l, "replaced", "\x00new", revisionOf(t, l, "replaced"))
	put(t, l, "empty", "", 0)
	remove(t, l, "gone", put(t, l, "gone", "", 0))
	before, err := collect(l.List(t.Context(), ""))
	if err != nil || len(before) != len(parts)+2 {
		t.Fatalf("List gives %d entries, %v", len(before), err)
	}
	for range 2 {
		l.again()
		after, err := collect(l.List(t.Context(), ""))
		if err != nil || !slices.EqualFunc(after, before, equalEntries) {
			t.Fatalf("after reopen List gives %v, %v, want %v", after, err, before)
		}
	}
	for _, e := range before {
		wantEntry(t, l, e.Key, string(e.Value), e.Revision)
	}
	_, err = l.Get(t.Context(), "gone")
	wantError(t, "Get of a key that was deleted in an earlier life", err, store.ErrNotFound)
}

func testCompareAndSetSurvives(t *testing.T, l *life) {
	ctx := t.Context()
	old := put(t, l, "a", "one", 0)
	rev := put(t, l, "a", "two", old)
	gone := put(t, l, "gone", "", 0)
	remove(t, l, "gone", gone)
	l.again()
	for name, stale := range map[string]store.Revision{"0": 0, "the last": old, "the next": rev + 1} {
		_, err := l.Put(ctx, "a", []byte("lost"), stale)
		wantError(t, "Put after reopen at revision "+name, err, store.ErrConflict)
		wantError(t, "Delete after reopen at revision "+name, l.Delete(ctx, "a", stale), store.ErrConflict)
	}
	_, err := l.Put(ctx, "gone", nil, gone)
	wantError(t, "Put after reopen of a deleted key", err, store.ErrConflict)
	wantError(t, "Delete after reopen of a deleted key", l.Delete(ctx, "gone", gone), store.ErrNotFound)
	wantEntry(t, l, "a", "two", rev)
	put(t, l, "a", "three", rev)
	wantKeys(t, l, "", "a")
}

// testRevisionsNeverGoBack deletes what had the highest revisions: a counter that is made up from the
// entries that are left would hand them out a second time.
func testRevisionsNeverGoBack(t *testing.T, l *life) {
	var last store.Revision
	for i := range 5 {
		for _, key := range []string{"a", "b"} {
			rev := put(t, l, key, "", 0)
			if rev <= last {
				t.Fatalf("revision %d in life %d follows %d", rev, i+1, last)
			}
			last = rev
		}
		remove(t, l, "a", revisionOf(t, l, "a"))
		w := watch(t, l, "b", last)
		remove(t, l, "b", last)
		last = w.next().Entry.Revision // that of the deletion
		l.again()
	}
}

func testLargeValuesSurvive(t *testing.T, l *life) {
	want := map[string]store.Revision{}
	value := func(key string) string { return strings.Repeat(key+"\x00\xff", store.MaxValue/4) }
	for _, key := range []string{"ab", "cd", "ef"} {
		want[key] = put(t, l, key, value(key), 0)
	}
	l.again()
	for key, rev := range want {
		wantEntry(t, l, key, value(key), rev)
	}
	wantKeys(t, l, "", slices.Sorted(maps.Keys(want))...)
	put(t, l, "ab", "small", want["ab"])
	l.again()
	wantEntry(t, l, "cd", value("cd"), want["cd"])
	if e, err := l.Get(t.Context(), "ab"); err != nil || string(e.Value) != "small" {
		t.Fatalf("Get of a value that became small gives %d bytes, %v", len(e.Value), err)
	}
}

// testWatchFromEarlierLife watches from each revision of an earlier life. A change in the new life follows
// those that were missed, so a store that skips them is caught with the wrong event, not by waiting.
func testWatchFromEarlierLife(t *testing.T, l *life) {
	revisions := []store.Revision{put(t, l, "w/0", "", 0)}
	var missed []string
	for i := 1; i < 10; i++ {
		revisions = append(revisions, put(t, l, fmt.Sprintf("w/%d", i), "", 0))
		missed = append(missed, fmt.Sprintf("put w/%d", i))
	}
	remove(t, l, "w/0", revisions[0])
	missed = append(missed, "delete w/0")
	l.again()
	put(t, l, "w/later", "", 0)
	for i, rev := range revisions {
		wantAllOrCompacted(t, watch(t, l, "w/", rev), append(missed[i:], "put w/later"))
	}
	w := watch(t, l, "w/", 0)
	for i := 1; i < 10; i++ {
		w.want(fmt.Sprintf("put w/%d", i))
	}
	w.want("put w/later", "synced")
}

func wantAllOrCompacted(t *testing.T, w watcher, want []string) {
	t.Helper()
	for i, want := range want {
		ev, err, _ := w.pull()
		if i == 0 && errors.Is(err, store.ErrCompacted) {
			return
		}
		if err != nil || text(ev) != want {
			t.Fatalf("Watch from an earlier life gives %q, %v, want %q", text(ev), err, want)
		}
	}
}

func testWatchFromLatestRevision(t *testing.T, l *life) {
	put(t, l, "a", "", 0)
	latest := put(t, l, "b", "", 0)
	l.again()
	w := watch(t, l, "", latest)
	rev := put(t, l, "a", "2", revisionOf(t, l, "a"))
	w.want("put a 2")
	remove(t, l, "a", rev)
	w.want("delete a")
	watch(t, l, "", latest).want("put a 2", "delete a")
}

func testWatchFromUnknownAfterReopen(t *testing.T, l *life) {
	rev := put(t, l, "a", "", 0)
	l.again()
	wantError(t, "Watch from a revision to come", watch(t, l, "", rev+1000).err(), store.ErrCompacted)
}

// testCloseUnderLoadLosesNothing closes the store amid changes: each that was acknowledged is there
// in the next life, and what was not is whole or not there.
func testCloseUnderLoadLosesNothing(t *testing.T, l *life) {
	const warm = 5 // rounds before the store may close
	var busy, all sync.WaitGroup
	busy.Add(racers)
	latest := make([]store.Entry, racers)
	for racer := range racers {
		latest[racer].Key = fmt.Sprintf("load/%d", racer)
		all.Go(func() { countUntilClosed(t, l.Store, &latest[racer], warm, &busy) })
	}
	busy.Wait()
	l.end()
	all.Wait()
	l.Store = l.open(t, l.place)
	for _, e := range latest {
		wantThisOrNext(t, l, e)
	}
}

// countUntilClosed counts up in the entry e, which always is the latest one acknowledged.
func countUntilClosed(t *testing.T, s store.Store, e *store.Entry, warm int, busy *sync.WaitGroup) {
	var once sync.Once
	defer once.Do(busy.Done)
	for i := 1; ; i++ {
		value := fmt.Appendf(nil, "%d", i)
		rev, err := s.Put(t.Context(), e.Key, value, e.Revision)
		if err != nil {
			if !errors.Is(err, store.ErrClosed) || i < warm {
				t.Errorf("round %d of %s: %v", i, e.Key, err)
			}
			return
		}
		e.Value, e.Revision = value, rev
		if i == warm {
			once.Do(busy.Done)
		}
	}
}

// wantThisOrNext checks that a count is the latest that was acknowledged or the one that was under way.
func wantThisOrNext(t *testing.T, s store.Store, last store.Entry) {
	t.Helper()
	var count int
	fmt.Sscan(string(last.Value), &count)
	e, err := s.Get(t.Context(), last.Key)
	same := e.Revision == last.Revision && string(e.Value) == string(last.Value)
	next := e.Revision > last.Revision && string(e.Value) == fmt.Sprint(count+1)
	if err != nil || !same && !next {
		t.Errorf("after reopen %s is %s at %d, %v; %s at %d was acknowledged", last.Key, e.Value, e.Revision, err, last.Value, last.Revision)
	}
}

// testInterruptedChanges gives up on changes at any moment. In the next life each is there as it was
// written or not there, and those that were acknowledged are there.
func testInterruptedChanges(t *testing.T, l *life) {
	const rounds = cutRounds
	value := strings.Repeat("whole", 2000)
	var mu sync.Mutex
	acknowledged := map[string]store.Revision{}
	race(func(racer int) {
		for i := range rounds {
			ctx, cancel := context.WithCancel(t.Context())
			go cancel()
			key := fmt.Sprintf("cut/%d/%d", racer, i)
			rev, err := l.Put(ctx, key, []byte(value), 0)
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("interrupted Put: %v", err)
			}
			if err == nil {
				mu.Lock()
				acknowledged[key] = rev
				mu.Unlock()
			}
		}
	})
	l.again()
	for key, rev := range acknowledged {
		wantEntry(t, l, key, value, rev)
	}
	entries, err := collect(l.List(t.Context(), ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if string(e.Value) != value {
			t.Errorf("after reopen %s has %d bytes of %d", e.Key, len(e.Value), len(value))
		}
	}
}

func testManyLives(t *testing.T, l *life) {
	const lives = manyLives
	var rev store.Revision
	var keys []string
	for i := range lives {
		key := fmt.Sprintf("born/%d", i)
		put(t, l, key, "", 0)
		keys = append(keys, key)
		rev = put(t, l, "age", fmt.Sprint(i), rev)
		l.again()
		wantEntry(t, l, "age", fmt.Sprint(i), rev)
		wantKeys(t, l, "born/", keys...)
	}
}
