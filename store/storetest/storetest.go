// Package storetest holds the tests that every [store.Store] passes. An implementation's own tests call
// [Run], [RunCompaction] if it keeps a bounded number of changes, and [RunDurable] if it outlives its
// process; tests of what only it can do (crashes, bounds, files) stay with it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/store"
)

// Run tests the store that open makes. Each call of open returns one that is empty and independent of
// the others; the suite closes it. The suite runs its tests in parallel, starts and joins goroutines, and
// writes some thousands of entries, of which a few are of [store.MaxValue] bytes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"Entries", testEntries},
		{"ConflictsChangeNothing", testConflicts},
		{"RevisionsGrow", testRevisions},
		{"ValuesAreCopied", testCopies},
		{"Sizes", testSizes},
		{"InvalidKeysAreRefused", testInvalidKeys},
		{"HostileKeysStayApart", testHostileKeys},
		{"RandomOperationsMatchAMap", testModel},
		{"ListOrderAndPrefixes", testList},
		{"ListAcrossManyKeys", testListMany},
		{"ListShowsOneMoment", testListSnapshot},
		{"ListBodyMayWrite", testListBodyMayWrite},
		{"ListAfterKey", testListAfter},
		{"ListAfterInPages", testListAfterInPages},
		{"ListAfterShowsOneMoment", testListAfterSnapshot},
		{"ListAfterInvalidKeyIsRefused", testListAfterInvalid},
		{"WatchFromZero", testWatchFromZero},
		{"WatchPrefixes", testWatchPrefixes},
		{"WatchFromRevision", testWatchFromRevision},
		{"WatchFromUnknownRevision", testWatchFromUnknownRevision},
		{"WatchersUnderLoadMissNothing", testWatchersUnderLoad},
		{"WatchBodyMayWrite", testWatchBodyMayWrite},
		{"CompareAndSetRace", testCompareAndSetRace},
		{"CreateRace", testCreateRace},
		{"DeleteRace", testDeleteRace},
		{"CancelledContext", testCancelledContext},
		{"CancelEndsWatch", testCancelEndsWatch},
		{"Close", testClose},
		{"CloseEndsWatch", testCloseEndsWatch},
		{"CloseUnderLoad", testCloseUnderLoad},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}()
			test.run(t, s)
		})
	}
}

func testEntries(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.Get(ctx, "a")
	wantError(t, "Get of an absent key", err, store.ErrNotFound)

	rev := put(t, s, "a", "one", 0)
	wantEntry(t, s, "a", "one", rev)
	rev = put(t, s, "a", "two", rev)
	wantEntry(t, s, "a", "two", rev)
	if err := s.Delete(ctx, "a", rev); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	_, err = s.Get(ctx, "a")
	wantError(t, "Get of a deleted key", err, store.ErrNotFound)
	wantEntry(t, s, "a", "three", put(t, s, "a", "three", 0))
}

func testConflicts(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.Put(ctx, "absent", nil, 1)
	wantError(t, "Put of an absent key at revision 1", err, store.ErrConflict)
	wantError(t, "Delete of an absent key", s.Delete(ctx, "absent", 1), store.ErrNotFound)
	wantError(t, "Delete of an absent key at 0", s.Delete(ctx, "absent", 0), store.ErrNotFound)

	old := put(t, s, "a", "one", 0)
	rev := put(t, s, "a", "two", old)
	for name, stale := range map[string]store.Revision{"0": 0, "the last": old, "the next": rev + 1} {
		_, err := s.Put(ctx, "a", []byte("lost"), stale)
		wantError(t, "Put at revision "+name, err, store.ErrConflict)
		wantError(t, "Delete at revision "+name, s.Delete(ctx, "a", stale), store.ErrConflict)
	}
	wantEntry(t, s, "a", "two", rev)

	other := put(t, s, "b", "one", 0)
	_, err = s.Put(ctx, "a", nil, other)
	wantError(t, "Put at another key's revision", err, store.ErrConflict)
	remove(t, s, "a", rev)
	_, err = s.Put(ctx, "a", nil, rev)
	wantError(t, "Put at the revision before the deletion", err, store.ErrConflict)
	wantKeys(t, s, "", "b")
}

func testRevisions(t *testing.T, s store.Store) {
	var last store.Revision
	for i := range 20 {
		for _, key := range []string{"a", "b"} {
			rev := put(t, s, key, fmt.Sprint(i), revisionOf(t, s, key))
			if rev <= last {
				t.Fatalf("revision %d of %s follows %d", rev, key, last)
			}
			last = rev
		}
	}
	remove(t, s, "a", revisionOf(t, s, "a"))
	if rev := put(t, s, "a", "again", 0); rev <= last {
		t.Fatalf("revision %d after a deletion follows %d", rev, last)
	}
}

func testCopies(t *testing.T, s store.Store) {
	ctx := t.Context()
	start := put(t, s, "0", "", 0)
	value := []byte("value")
	rev, err := s.Put(ctx, "a", value, 0)
	if err != nil {
		t.Fatal(err)
	}
	clear(value)
	for range 2 { // spoil whatever the store gives out, and look again
		e, err := s.Get(ctx, "a")
		spoil(t, "Get", e, err)
		for e, err := range s.List(ctx, "a") {
			spoil(t, "List", e, err)
		}
		spoil(t, "Watch from 0", watch(t, s, "a", 0).next().Entry, nil)
		spoil(t, "Watch from a revision", watch(t, s, "a", start).next().Entry, nil)
	}
	wantEntry(t, s, "a", "value", rev)
}

// spoil overwrites a value that must be "value".
func spoil(t *testing.T, from string, e store.Entry, err error) {
	t.Helper()
	if err != nil || string(e.Value) != "value" {
		t.Fatalf("%s gives %q, %v", from, e.Value, err)
	}
	clear(e.Value)
}

func testSizes(t *testing.T, s store.Store) {
	ctx := t.Context()
	rev := put(t, s, "empty", "", 0)
	wantEntry(t, s, "empty", "", rev)

	key := strings.Repeat("k", store.MaxKey)
	value := bytes.Repeat([]byte{0, 0xff, '\n', '\''}, store.MaxValue/4)
	rev = put(t, s, key, string(value), 0)
	wantEntry(t, s, key, string(value), rev)
	wantKeys(t, s, key, key)

	_, err := s.Put(ctx, "large", append(value, 0), 0)
	wantError(t, "Put of a value that is too large", err, store.ErrTooLarge)
	_, err = s.Put(ctx, key, append(value, 0), rev)
	wantError(t, "Put of a value that is too large", err, store.ErrTooLarge)
	wantEntry(t, s, key, string(value), rev)
}

func testInvalidKeys(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/a", "a/", "a//b", "a/../b", "a\x00", "a b", "é", "a'", strings.Repeat("k", store.MaxKey+1)} {
		_, err := s.Get(ctx, key)
		wantError(t, fmt.Sprintf("Get of %.20q", key), err, store.ErrInvalidKey)
		_, err = s.Put(ctx, key, nil, 0)
		wantError(t, fmt.Sprintf("Put of %.20q", key), err, store.ErrInvalidKey)
		wantError(t, fmt.Sprintf("Delete of %.20q", key), s.Delete(ctx, key, 1), store.ErrInvalidKey)
	}
	for _, prefix := range []string{"/", "a//", "a/../", "%", "a*", "a'"} {
		_, err := collect(s.List(ctx, prefix))
		wantError(t, fmt.Sprintf("List of %q", prefix), err, store.ErrInvalidKey)
		wantError(t, fmt.Sprintf("Watch of %q", prefix), watch(t, s, prefix, 0).err(), store.ErrInvalidKey)
	}
	wantKeys(t, s, "")
}

func testHostileKeys(t *testing.T, s store.Store) {
	parts := []string{
		"../../etc/passwd", "..", "CON", "a", "A", "a/b", "a=2Fb", "a\x00b", "'; DROP TABLE entries; --",
		"_", "%", "*", ">", "a.b", "a b", "\u202e", "\xff\xfe", "", "=", "-", strings.Repeat("é", 60),
	}
	revisions := map[string]store.Revision{}
	for _, part := range parts {
		key := store.Key("hostile", part)
		revisions[key] = put(t, s, key, part, 0)
	}
	for _, part := range parts {
		key := store.Key("hostile", part)
		wantEntry(t, s, key, part, revisions[key])
	}
	wantKeys(t, s, "hostile/", slices.Sorted(maps.Keys(revisions))...)
	wantKeys(t, s, "hostile/_", "hostile/_") // no wildcard of LIKE
	wantKeys(t, s, "hostile/=25", "hostile/=25")
}

// testModel runs random operations on the store and on a map, and compares what they answer. It stops
// after so many changes, since a store may sync each of them.
func testModel(t *testing.T, s store.Store) {
	ctx, run, changes, failed := t.Context(), 0, 0, false
	rapid.Check(t, func(r *rapid.T) {
		if changes > enoughChanges && !failed {
			return
		}
		defer func() { failed = failed || r.Failed() }() // then rapid repeats it to make it smaller
		run++
		folder := fmt.Sprintf("run%d/", run)
		model := map[string]store.Entry{}
		key := rapid.Custom(func(r *rapid.T) string {
			return folder + rapid.SampledFrom([]string{"a", "a/b", "a-", "a.", "a0", "aa", "b", "b/a"}).Draw(r, "key")
		})
		revision := func(r *rapid.T, key string) store.Revision {
			return rapid.SampledFrom([]store.Revision{0, model[key].Revision, model[key].Revision, 1}).Draw(r, "revision")
		}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				k := key.Draw(r, "k")
				rev, value := revision(r, k), rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(r, "value")
				written, err := s.Put(ctx, k, value, rev)
				if fits := model[k].Revision == rev; fits != (err == nil) || !fits && !errors.Is(err, store.ErrConflict) {
					r.Fatalf("Put of %s at %d, which is at %d: %v", k, rev, model[k].Revision, err)
				}
				if err == nil {
					changes++
					model[k] = store.Entry{Key: k, Value: value, Revision: written}
				}
			},
			"delete": func(r *rapid.T) {
				k := key.Draw(r, "k")
				rev := revision(r, k)
				err := s.Delete(ctx, k, rev)
				_, present := model[k]
				switch fits := model[k].Revision == rev; {
				case !present && errors.Is(err, store.ErrNotFound), present && !fits && errors.Is(err, store.ErrConflict):
				case present && fits && err == nil:
					changes++
					delete(model, k)
				default:
					r.Fatalf("Delete of %s at %d, which is at %d: %v", k, rev, model[k].Revision, err)
				}
			},
			"": func(r *rapid.T) {
				prefix := folder + rapid.SampledFrom([]string{"", "a", "a/", "b", "c"}).Draw(r, "prefix")
				var want []store.Entry
				for _, k := range slices.Sorted(maps.Keys(model)) {
					if strings.HasPrefix(k, prefix) {
						want = append(want, model[k])
					}
				}
				got, err := collect(s.List(ctx, prefix))
				if err != nil || !slices.EqualFunc(got, want, equalEntries) {
					r.Fatalf("List of %s gives %v, %v, want %v", prefix, got, err, want)
				}
			},
		})
	})
}

func equalEntries(a, b store.Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value)
}

// collect reads a list to its end; a list that goes on after an error gives errBeyondEnd.
func collect(entries iter.Seq2[store.Entry, error]) (all []store.Entry, end error) {
	for e, err := range entries {
		if end != nil || err != nil && e.Key != "" {
			return all, errBeyondEnd
		}
		if end = err; err != nil {
			continue
		}
		all = append(all, e)
	}
	return all, end
}

var errBeyondEnd = errors.New("the error of a list is neither alone nor last")

func put(t *testing.T, s store.Store, key, value string, rev store.Revision) store.Revision {
	t.Helper()
	written, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil || written == 0 {
		t.Fatalf("Put of %.40q at %d gives revision %d, %v", key, rev, written, err)
	}
	return written
}

func remove(t *testing.T, s store.Store, key string, rev store.Revision) {
	t.Helper()
	if err := s.Delete(t.Context(), key, rev); err != nil {
		t.Fatalf("Delete of %q at %d: %v", key, rev, err)
	}
}

// revisionOf returns the revision of a key, 0 if it does not exist.
func revisionOf(t *testing.T, s store.Store, key string) store.Revision {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return e.Revision
}

func wantEntry(t *testing.T, s store.Store, key, value string, rev store.Revision) {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil || e.Key != key || string(e.Value) != value || e.Revision != rev || e.Value == nil {
		t.Fatalf("Get of %.40q gives %.40q = %.40q at %d, %v, want %.40q at %d", key, e.Key, e.Value, e.Revision, err, value, rev)
	}
}

func wantKeys(t *testing.T, s store.Store, prefix string, want ...string) {
	t.Helper()
	entries, err := collect(s.List(t.Context(), prefix))
	got := keysOf(entries)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("List of %.40q gives %q, %v, want %q", prefix, got, err, want)
	}
}

func keysOf(entries []store.Entry) []string {
	keys := make([]string, len(entries))
	for i, e := range entries {
		keys[i] = e.Key
	}
	return keys
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s gives the error %v, want %v", what, err, want)
	}
}

// cancelled returns a context that is done.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
