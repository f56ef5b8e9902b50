package memory_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	s, err := memory.New(memory.Config{})
	if err != nil {
		panic(err)
	}
	defer s.Close()

	ctx := context.Background()
	first, _ := s.Put(ctx, "pool/painters", []byte("open"), 0)
	_, err = s.Put(ctx, "pool/painters", []byte("mine"), 0)
	fmt.Println(err)
	second, _ := s.Put(ctx, "pool/painters", []byte("closed"), first)
	fmt.Println(first, second)
	// Output:
	// put "pool/painters": entry is at another revision
	// 1 2
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, memory.Config{}) })
}

// texts is a store that is watched by text.
type texts struct{ *memory.Store }

func (s texts) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		for ev, err := range s.WatchText(ctx, prefix, after) {
			if !yield(store.Event{Op: ev.Op, Entry: ev.Entry()}, err) {
				return
			}
		}
	}
}

func TestStoreThatIsWatchedByText(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return texts{open(t, memory.Config{})} })
	storetest.RunCompaction(t, func(t *testing.T) store.Store { return texts{open(t, memory.Config{MaxLog: 16})} })
}

// plain is a store that hands out no text.
type plain struct{ store.Store }

// TestWatchTextOfAnyStore compares what a store tells by itself with what is made of its events.
func TestWatchTextOfAnyStore(t *testing.T) {
	s := open(t, memory.Config{})
	rev := mustPut(t, s, "a/1", "one", 0)
	mustPut(t, s, "b", "else", 0)
	rev = mustPut(t, s, "a/1", "", rev)
	if err := s.Delete(t.Context(), "a/1", rev); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "a/2", "two", 0)
	for after, want := range map[store.Revision]string{
		0: "[{put a/2 two 5} {synced   5}]", 1: "[{put a/1  3} {delete a/1  4} {put a/2 two 5}]", 6: "[compacted]",
	} {
		for _, watched := range []store.Store{s, plain{s}} {
			if got := fmt.Sprint(texted(watched, after)); got != want {
				t.Errorf("after %d, %T tells %v, want %v", after, watched, got, want)
			}
		}
	}
}

// texted returns what is told up to revision 5.
func texted(s store.Store, after store.Revision) (told []any) {
	for ev, err := range store.WatchText(context.Background(), s, "a/", after) {
		if errors.Is(err, store.ErrCompacted) {
			return append(told, "compacted")
		}
		told = append(told, ev)
		if err != nil || ev.Revision == 5 && (after > 0 || ev.Op == store.OpSynced) {
			return told
		}
	}
	return told
}

func TestCompaction(t *testing.T) {
	for name, config := range map[string]memory.Config{
		"ByLength": {MaxLog: 16},
		"OddBound": {MaxLog: 11},
		"ByBytes":  {MaxLogBytes: 100},
		"ToOne":    {MaxLogBytes: 1}, // the newest change is kept whatever its size
	} {
		t.Run(name, func(t *testing.T) {
			storetest.RunCompaction(t, func(t *testing.T) store.Store { return open(t, config) })
		})
	}
}

func TestNewNamesNegativeBound(t *testing.T) {
	for _, c := range []memory.Config{{MaxEntries: -1}, {MaxBytes: -1}, {MaxLog: -1}, {MaxLogBytes: -1}} {
		if _, err := memory.New(c); err == nil || !strings.Contains(err.Error(), "-1") {
			t.Errorf("New(%+v) = %v", c, err)
		}
	}
}

func TestFullByEntries(t *testing.T) {
	s := open(t, memory.Config{MaxEntries: 2})
	ctx := t.Context()
	rev := mustPut(t, s, "a", "1", 0)
	mustPut(t, s, "b", "1", 0)
	if _, err := s.Put(ctx, "c", nil, 0); !errors.Is(err, store.ErrFull) {
		t.Fatalf("Put of a third entry = %v", err)
	}
	if _, err := s.Put(ctx, "a", nil, 0); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Put of an existing key in a full store = %v", err)
	}
	rev = mustPut(t, s, "a", "as long as it likes", rev)
	if err := s.Delete(ctx, "a", rev); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "c", "1", 0)
}

func TestFullByBytes(t *testing.T) {
	s := open(t, memory.Config{MaxBytes: 10})
	ctx := t.Context()
	a := mustPut(t, s, "a", "1234", 0)
	b := mustPut(t, s, "b", "1234", 0)
	if _, err := s.Put(ctx, "b", []byte("12345"), b); !errors.Is(err, store.ErrFull) {
		t.Fatalf("Put that grows a full store = %v", err)
	}
	if _, err := s.Put(ctx, "c", nil, 0); !errors.Is(err, store.ErrFull) {
		t.Fatalf("Put of a key that is too much = %v", err)
	}
	a = mustPut(t, s, "a", "1", a)
	mustPut(t, s, "b", "1234567", b)
	if err := s.Delete(ctx, "a", a); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "c", "1", 0)
}

// A watcher that waits is carried along, however many changes pass that do not concern it.
func TestWaitingWatcherIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memory.Config{MaxLog: 4})
		got := make(chan string, 2)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(got)
			for ev, err := range s.Watch(ctx, "a/", 0) {
				got <- fmt.Sprint(ev.Op, ev.Entry.Key, err)
			}
		}()
		synctest.Wait()
		if ev := <-got; ev != "synced<nil>" {
			t.Fatal(ev)
		}
		for i := range 1000 {
			mustPut(t, s, fmt.Sprintf("b/%d", i), "", 0)
		}
		mustPut(t, s, "a/1", "", 0)
		synctest.Wait()
		if ev := <-got; ev != "puta/1<nil>" {
			t.Fatal(ev)
		}
		cancel()
		for range got {
		}
	})
}

func TestCancellationGivesItsCause(t *testing.T) {
	s := open(t, memory.Config{})
	cause := errors.New("no more")
	ctx, cancel := context.WithCancelCause(t.Context())
	next, stop := iter.Pull2(s.Watch(ctx, "", 0))
	defer stop()
	if ev, err, _ := next(); ev.Op != store.OpSynced {
		t.Fatalf("first event %v, %v", ev, err)
	}
	cancel(cause)
	if _, err, _ := next(); !errors.Is(err, cause) {
		t.Errorf("Watch ends with %v", err)
	}
	if _, err := s.Get(ctx, "a"); !errors.Is(err, cause) {
		t.Errorf("Get gives %v", err)
	}
}

// A list shows the moment of its start whatever is written while its loop runs, in all parts of a tree
// of several levels.
func TestListAmidChangesShowsItsMoment(t *testing.T) {
	const n = 20000
	s := open(t, memory.Config{})
	key := func(i int) string { return fmt.Sprintf("k/%05d", i) }
	revisions := make([]store.Revision, n)
	for i := range n {
		revisions[i] = mustPut(t, s, key(i), "old", 0)
	}
	i := 0
	for e, err := range s.List(t.Context(), "k/") {
		if err != nil || e.Key != key(i) || string(e.Value) != "old" || e.Revision != revisions[i] {
			t.Fatalf("entry %d is %s = %s at %d, %v", i, e.Key, e.Value, e.Revision, err)
		}
		last := n - 1 - i // ahead of the loop in the first half, behind it in the second
		if i%2 == 0 {
			mustPut(t, s, key(last), "new", revisions[last])
		} else if err := s.Delete(t.Context(), key(last), revisions[last]); err != nil {
			t.Fatal(err)
		}
		i++
	}
	if i != n {
		t.Errorf("List gives %d entries, want %d", i, n)
	}
	count := 0
	for e := range s.List(t.Context(), "k/") {
		if count++; string(e.Value) != "new" {
			t.Fatalf("%s is %s", e.Key, e.Value)
		}
	}
	if count != n/2 {
		t.Errorf("List gives %d entries, want %d", count, n/2)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1000, 1000000} {
		b.Run(fmt.Sprintf("replace/keys=%d", n), func(b *testing.B) {
			s, keys, revisions := filled(b, n)
			value := make([]byte, 200)
			for i := 0; b.Loop(); i++ {
				k := i * 7919 % n
				rev, err := s.Put(context.Background(), keys[k], value, revisions[k])
				if err != nil {
					b.Fatal(err)
				}
				revisions[k] = rev
			}
		})
	}
}

func BenchmarkListPrefixAmongMillion(b *testing.B) {
	s, keys, _ := filled(b, 1000000)
	for i := 0; b.Loop(); i++ {
		prefix := keys[i*7919%len(keys)][:9] // a handful of keys
		for _, err := range s.List(b.Context(), prefix) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func filled(b *testing.B, n int) (*memory.Store, []string, []store.Revision) {
	s := open(b, memory.Config{})
	keys, revisions := make([]string, n), make([]store.Revision, n)
	for i := range n {
		keys[i] = store.Key("task", fmt.Sprintf("%08x%024x", uint32(i)*2654435761, i))
		revisions[i] = mustPut(b, s, keys[i], "value", 0)
	}
	return s, keys, revisions
}

func open(t testing.TB, c memory.Config) *memory.Store {
	t.Helper()
	s, err := memory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPut(t testing.TB, s store.Store, key, value string, rev store.Revision) store.Revision {
	t.Helper()
	written, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// TestRevisionFarBack replaces and deletes what has been written long before, so that its revision shares its place with
// later ones. No revision that is over brings a deleted entry back, nor does that of the deletion.
func TestRevisionFarBack(t *testing.T) {
	t.Parallel()
	s := open(t, memory.Config{})
	ctx := t.Context()
	gone := mustPut(t, s, "gone", "1", mustPut(t, s, "gone", "0", 0))
	first := mustPut(t, s, "a", "first", 0)
	busy := mustPut(t, s, "b", "", 0)
	for busy < gone+1<<16-1 {
		busy = mustPut(t, s, "b", "", busy)
	}
	if err := s.Delete(ctx, "gone", gone); err != nil { // which shares its place with what it deletes
		t.Fatal(err)
	}
	wantConflicts(t, s, "gone", 0)
	wantConflicts(t, s, "gone", mustPut(t, s, "gone", "again", 0))
	wantConflicts(t, s, "a", first)
	second := mustPut(t, s, "a", "second", first)
	wantConflicts(t, s, "a", second)
	mustPut(t, s, "b", "", busy)
	if e, err := s.Get(ctx, "a"); err != nil || string(e.Value) != "second" || e.Revision != second {
		t.Errorf("the entry is %v, %v", e, err)
	}
}

// wantConflicts names all revisions of TestRevisionFarBack that are about something, but that of an entry.
func wantConflicts(t *testing.T, s store.Store, key string, except store.Revision) {
	t.Helper()
	for _, start := range []store.Revision{1, 1 << 16, 1 << 17} {
		for rev := start; rev < start+16; rev++ {
			if rev == except {
				continue
			}
			if _, err := s.Put(t.Context(), key, nil, rev); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("a change of %q that names revision %d = %v", key, rev, err)
			}
		}
	}
}

// TestOneChangeWinsARevision has goroutines replace, delete and create one entry as fast as they can. Each change wins its
// revision alone, which the log of the store has to bear out.
func TestOneChangeWinsARevision(t *testing.T) {
	t.Parallel()
	s := open(t, memory.Config{})
	ctx := t.Context()
	var mu sync.Mutex
	won := map[store.Revision]bool{} // that somebody has replaced or deleted
	win := func(rev store.Revision) {
		mu.Lock()
		defer mu.Unlock()
		if rev != 0 && won[rev] {
			t.Errorf("revision %d was changed twice", rev)
		}
		won[rev] = true
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 500 {
				e, _ := s.Get(ctx, "a")
				var err error
				if n%8 == i && e.Revision != 0 {
					err = s.Delete(ctx, "a", e.Revision)
				} else {
					_, err = s.Put(ctx, "a", fmt.Append(nil, i, n), e.Revision)
				}
				if err == nil {
					win(e.Revision)
				} else if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if e, err := s.Get(ctx, "a"); err == nil && won[e.Revision] {
		t.Errorf("revision %d is there, and was changed", e.Revision)
	}
}
