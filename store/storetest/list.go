package storetest

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/converge-agents/converge/store"
)

func testList(t *testing.T, s store.Store) {
	wantKeys(t, s, "")
	keys := []string{"a-b", "a.b", "a/b", "a/b/c", "a0", "aa", "ab", "b", "A", "a", "a=2F", "a_", "z/z"}
	for _, key := range keys {
		put(t, s, key, key, 0)
	}
	slices.Sort(keys) // by bytes: upper case first, "a-b" and "a.b" before "a/b"
	wantKeys(t, s, "", keys...)
	wantKeys(t, s, "a", "a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a=2F", "a_", "aa", "ab")
	wantKeys(t, s, "a/", "a/b", "a/b/c")
	wantKeys(t, s, "a/b", "a/b", "a/b/c")
	wantKeys(t, s, "a/b/", "a/b/c")
	wantKeys(t, s, "b/")
	wantKeys(t, s, "z/z", "z/z")
	wantKeys(t, s, "zz")
	wantKeys(t, s, "a.", "a.b")

	for range s.List(t.Context(), "") {
		break // must leave nothing locked
	}
	remove(t, s, "a/b", revisionOf(t, s, "a/b"))
	wantKeys(t, s, "a/", "a/b/c")
}

func testListMany(t *testing.T, s store.Store) {
	const n = manyKeys
	var even, odd []string
	spread(n, func(i int) {
		putOrError(t, s, fmt.Sprintf("many/%04d", i*7919%n)) // in no order
	})
	for i := range n {
		key := fmt.Sprintf("many/%04d", i)
		if i%2 == 0 {
			even = append(even, key)
		} else {
			odd = append(odd, key)
		}
	}
	removeAll(t, s, odd)
	wantKeys(t, s, "", even...)
	wantKeys(t, s, "many/01", even[50:100]...)
	removeAll(t, s, even)
	wantKeys(t, s, "")
	put(t, s, "many/again", "", 0)
	wantKeys(t, s, "", "many/again")
}

// spread calls fn with 0 to n-1 in a few goroutines, so that a store can share the cost of changes.
func spread(n int, fn func(i int)) {
	race(func(racer int) {
		for i := racer; i < n; i += racers {
			fn(i)
		}
	})
}

// putOrError creates an empty entry; it may be called in any goroutine.
func putOrError(t *testing.T, s store.Store, key string) {
	if _, err := s.Put(t.Context(), key, nil, 0); err != nil {
		t.Errorf("Put of %s: %v", key, err)
	}
}

func removeAll(t *testing.T, s store.Store, keys []string) {
	spread(len(keys), func(i int) {
		e, err := s.Get(t.Context(), keys[i])
		if err == nil {
			err = s.Delete(t.Context(), keys[i], e.Revision)
		}
		if err != nil {
			t.Errorf("Delete of %s: %v", keys[i], err)
		}
	})
}

func testListSnapshot(t *testing.T, s store.Store) {
	listsOneMoment(t, s, func() iter.Seq2[store.Entry, error] { return s.List(t.Context(), "") })
}

// listsOneMoment has a writer that always changes "a" before "z": whoever sees them further apart than one step, or
// "z" ahead, has seen two moments.
func listsOneMoment(t *testing.T, s store.Store, list func() iter.Seq2[store.Entry, error]) {
	for i := range 200 {
		put(t, s, fmt.Sprintf("m%03d", i), "", 0)
	}
	a, z := put(t, s, "a", "\x00", 0), put(t, s, "z", "\x00", 0)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for step := byte(1); ; step++ {
			select {
			case <-stop:
				return
			default:
			}
			var err1, err2 error
			a, err1 = s.Put(t.Context(), "a", []byte{step}, a)
			z, err2 = s.Put(t.Context(), "z", []byte{step}, z)
			if err1 != nil || err2 != nil {
				t.Errorf("Put: %v, %v", err1, err2)
				return
			}
		}
	})
	for range momentLists {
		entries, err := collect(list())
		if err != nil || len(entries) != 202 {
			t.Errorf("List gives %d entries, %v", len(entries), err)
			break
		}
		if first, last := entries[0].Value[0], entries[201].Value[0]; first-last > 1 {
			t.Errorf("List shows a at step %d and z at step %d", first, last)
		}
	}
	close(stop)
	writer.Wait()
}

func testListBodyMayWrite(t *testing.T, s store.Store) {
	for _, key := range []string{"a", "b", "c"} {
		put(t, s, key, "old", 0)
	}
	var seen []string
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e.Key+" "+string(e.Value))
		put(t, s, e.Key+"-new", "new", 0)
		if e.Key == "a" {
			put(t, s, "b", "new", revisionOf(t, s, "b"))
			remove(t, s, "c", revisionOf(t, s, "c"))
		}
	}
	if want := []string{"a old", "b old", "c old"}; !slices.Equal(seen, want) {
		t.Errorf("List that its body changes shows %q, want %q", seen, want)
	}
}
