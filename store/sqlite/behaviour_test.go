package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

// A store that has reached MaxBytes refuses what makes it larger and takes what makes it smaller.
func TestFullStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	s := open(t, sqlite.Config{Path: path, MaxBytes: 256 << 10})
	var revisions []store.Revision
	value := bytes.Repeat([]byte("x"), 2000)
	for {
		rev, err := s.Put(t.Context(), fmt.Sprintf("k/%03d", len(revisions)), value, 0)
		if errors.Is(err, store.ErrFull) {
			break
		}
		must(t, err)
		revisions = append(revisions, rev)
	}
	if n := len(revisions); n < 50 || n > 128 {
		t.Fatalf("256 KiB took %d entries of 2,000 bytes", n)
	}
	wantCount(t, s, len(revisions))
	must(t, s.Delete(t.Context(), "k/000", revisions[0]))
	must(t, s.Delete(t.Context(), "k/001", revisions[1]))
	last := revisions[len(revisions)-1]
	if rev := put(t, s, "again", "there is room", 0); rev != last+3 {
		t.Errorf("revision %d follows %d and two deletions", rev, last)
	}
	must(t, s.Close())
	wantCount(t, open(t, sqlite.Config{Path: path}), len(revisions)-1)
}

// Deletions and additions that share a full store's transaction have an outcome each.
func TestFullStoreAnswersEachChange(t *testing.T) {
	t.Parallel()
	s := open(t, sqlite.Config{MaxBytes: 256 << 10})
	var revisions [20]store.Revision
	for i := range revisions {
		revisions[i] = put(t, s, fmt.Sprintf("old/%d", i), "small", 0)
	}
	large := make([]byte, store.MaxValue)
	var all sync.WaitGroup
	for i, rev := range revisions {
		all.Go(func() {
			if err := s.Delete(t.Context(), fmt.Sprintf("old/%d", i), rev); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
		all.Go(func() {
			if _, err := s.Put(t.Context(), fmt.Sprintf("large/%d", i), large, 0); !errors.Is(err, store.ErrFull) {
				t.Errorf("Put of what has no room gives %v", err)
			}
		})
		all.Go(func() { put(t, s, fmt.Sprintf("new/%d", i), "small", 0) })
	}
	all.Wait()
	wantCount(t, s, len(revisions))
}

// wantCount may be called in any goroutine.
func wantCount(t *testing.T, s store.Store, want int) {
	t.Helper()
	n := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Errorf("List: %v", err)
		}
		n++
	}
	if n != want {
		t.Errorf("the store has %d entries, want %d", n, want)
	}
}

// Of those who share a transaction, one that conflicts loses alone.
func TestConflictsDoNotDisturbOthers(t *testing.T) {
	t.Parallel()
	s := open(t, sqlite.Config{})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if i%2 == 0 {
				put(t, s, fmt.Sprintf("own/%d", i), "", 0)
			} else if _, err := s.Put(t.Context(), "own/0", nil, 1<<62); !errors.Is(err, store.ErrConflict) {
				t.Errorf("Put at a revision to come gives %v", err)
			}
		})
	}
	all.Wait()
	wantCount(t, s, 50)
	if _, err := s.Put(t.Context(), "own/0", nil, 1<<64-1); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Put at the largest revision gives %v", err)
	}
}

// What was handed in before Close is written, or its caller learns that it was not.
func TestCloseWritesWhatWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	s := open(t, sqlite.Config{Path: path, MaxQueue: 4})
	var all sync.WaitGroup
	written := make([]bool, 500)
	first := make(chan struct{}, len(written))
	for i := range written {
		all.Go(func() {
			_, err := s.Put(t.Context(), fmt.Sprint(i), nil, 0)
			if written[i] = err == nil; !written[i] && !errors.Is(err, store.ErrClosed) {
				t.Errorf("Put gives %v", err)
			}
			first <- struct{}{}
		})
	}
	<-first
	must(t, s.Close())
	all.Wait()
	s = open(t, sqlite.Config{Path: path})
	for i, written := range written {
		if _, err := s.Get(t.Context(), fmt.Sprint(i)); written != (err == nil) {
			t.Errorf("entry %d was acknowledged: %t, and Get gives %v", i, written, err)
		}
	}
}

const many = 700 // more than a page

func filled(t *testing.T, c sqlite.Config) *sqlite.Store {
	s := open(t, c)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { put(t, s, fmt.Sprintf("k/%04d", i), "old", 0) })
	}
	all.Wait()
	return s
}

// A list shows its moment on every page, also what is deleted and replaced while its loop runs.
func TestLongListShowsItsMoment(t *testing.T) {
	t.Parallel()
	s := filled(t, sqlite.Config{})
	next, stop := iter.Pull2(s.List(t.Context(), "k/"))
	defer stop()
	e, err, _ := next()
	must(t, err)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			key := fmt.Sprintf("k/%04d", i)
			old, err := s.Get(t.Context(), key)
			if err == nil && i%2 == 0 {
				err = s.Delete(t.Context(), key, old.Revision)
			} else if err == nil {
				_, err = s.Put(t.Context(), key, []byte("new"), old.Revision)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	put(t, s, "k/a", "new", 0)
	for i := range many {
		if want := fmt.Sprintf("k/%04d", i); e.Key != want || string(e.Value) != "old" {
			t.Fatalf("entry %d is %s = %s", i, e.Key, e.Value)
		}
		e, err, _ = next()
		must(t, err)
	}
	if e.Key != "" {
		t.Errorf("the list goes on with %s", e.Key)
	}
	wantCount(t, s, many/2+1)
}

// Loops within loops get their connections, and at the bound an error, and never wait for each other.
func TestLoopsWithinLoopsDoNotHang(t *testing.T) {
	t.Parallel()
	s := filled(t, sqlite.Config{MaxLists: 12})
	var nest func(depth int) error
	nest = func(depth int) error {
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				return err
			}
			put(t, s, fmt.Sprintf("nest/%d", depth), "", 0)
			return nest(depth + 1)
		}
		return nil
	}
	err := nest(0)
	if err == nil {
		t.Fatal("loops nest without a bound")
	}
	wantText(t, err, "12 loops")
	if _, err := s.Get(t.Context(), "nest/11"); err != nil {
		t.Errorf("the twelfth loop: %v", err)
	}
	wantCount(t, s, many+12) // the bound is free again
}

// Short lists wait for a connection, and all of them get one.
func TestManyShortListsAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, sqlite.Config{MaxLists: 1})
	for i := range 20 {
		put(t, s, fmt.Sprint(i), "", 0)
	}
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() { wantCount(t, s, 20) })
	}
	all.Wait()
}

// Close does not wait for a loop that stands still; it takes the loop's connection away.
func TestCloseEndsListsThatStandStill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	s := filled(t, sqlite.Config{Path: path})
	list, stop := iter.Pull2(s.List(t.Context(), ""))
	defer stop()
	watch, stop2 := iter.Pull2(s.Watch(t.Context(), "", 0))
	defer stop2()
	_, err, _ := list()
	must(t, err)
	_, err, _ = watch()
	must(t, err)
	must(t, s.Close())

	open(t, sqlite.Config{Path: path}) // nothing holds the file any more
	for range many {
		if _, err, _ = list(); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("List that stood still when the store closed gives %v", err)
	}
	for range many {
		if _, err, _ = watch(); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("Watch that stood still when the store closed gives %v", err)
	}
}

// A body that closes its own store ends its loop and does not hang.
func TestListBodyMayClose(t *testing.T) {
	t.Parallel()
	s := filled(t, sqlite.Config{})
	var end error
	for _, err := range s.List(t.Context(), "") {
		if end = err; err == nil {
			must(t, s.Close())
		}
	}
	if !errors.Is(end, store.ErrClosed) {
		t.Errorf("List whose body closes the store ends with %v", end)
	}
}

// Another program that has the database locked delays changes; it does not make the store fail.
func TestOtherProgramHoldsTheLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	s := open(t, sqlite.Config{Path: path})
	rev := put(t, s, "a", "1", 0)
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	other, err := db.Conn(t.Context())
	must(t, err)
	_, err = other.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	must(t, err)

	var written atomic.Bool
	done := make(chan error)
	go func() {
		_, err := s.Put(t.Context(), "a", []byte("2"), rev)
		written.Store(true)
		done <- err
	}()
	if e, err := s.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("Get of a locked database gives %s, %v", e.Value, err)
	}
	if written.Load() {
		t.Error("Put returns while another program has the database locked")
	}
	_, err = other.ExecContext(t.Context(), "ROLLBACK")
	must(t, errors.Join(err, other.Close()))
	must(t, <-done)
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not mention %q", err, text)
	}
}
