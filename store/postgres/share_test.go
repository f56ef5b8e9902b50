package postgres_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// Several stores on one schema stand for as many processes.
func shared(t *testing.T, n int, config postgres.Config) []*postgres.Store {
	config.Schema = pgtest.Name()
	stores := make([]*postgres.Store, n)
	for i := range stores {
		stores[i] = open(t, config)
	}
	return stores
}

func TestOneOfManyProcessesWins(t *testing.T) {
	t.Parallel()
	stores := shared(t, 3, postgres.Config{})
	for round := range 30 {
		key := fmt.Sprintf("race/%d", round)
		var winners atomic.Int32
		var all sync.WaitGroup
		for racer := range 12 {
			all.Go(func() {
				_, err := stores[racer%len(stores)].Put(t.Context(), key, nil, 0)
				if err == nil {
					winners.Add(1)
				} else if !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := winners.Load(); n != 1 {
			t.Errorf("%d racers created %s", n, key)
		}
	}
}

// Changes of one batch for one key: one wins, whatever is mixed.
func TestMixedChangesOfOneKeyHaveOneWinner(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{})
	for round := range 50 {
		rev := mustPut(t, s, "k", "", 0)
		var winners, missing atomic.Int32
		var all sync.WaitGroup
		for racer := range 12 {
			all.Go(func() {
				var err error
				switch racer % 4 {
				case 0:
					_, err = s.Put(t.Context(), "k", nil, rev)
				case 1:
					err = s.Delete(t.Context(), "k", rev)
				case 2:
					_, err = s.Put(t.Context(), "k", nil, rev+5)
				case 3:
					err = s.Delete(t.Context(), "k", 0)
				}
				if err == nil {
					winners.Add(1)
				} else if errors.Is(err, store.ErrNotFound) {
					missing.Add(1)
				} else if !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		e, err := s.Get(t.Context(), "k")
		if winners.Load() != 1 || err == nil && missing.Load() > 0 {
			t.Fatalf("round %d: %d winners, %d found nothing, then %v", round, winners.Load(), missing.Load(), err)
		}
		if err == nil {
			if err := s.Delete(t.Context(), "k", e.Revision); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWatchSeesOtherProcesses(t *testing.T) {
	t.Parallel()
	stores := shared(t, 2, postgres.Config{Patience: time.Minute})
	w := watch(t, stores[0], "a/")
	w.want(t, "synced")
	for i := range 50 {
		rev := mustPut(t, stores[i%2], "a/k", fmt.Sprint(i), 0)
		mustPut(t, stores[1], fmt.Sprintf("other/%d", i), "", 0)
		w.want(t, fmt.Sprintf("put a/k %d", i))
		if err := stores[1-i%2].Delete(t.Context(), "a/k", rev); err != nil {
			t.Fatal(err)
		}
		w.want(t, "delete a/k")
	}
}

// A change whose notification is lost is seen at the next look.
func TestLostNotificationDelaysOnly(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.WithPoll(postgres.Config{}, 50*time.Millisecond))
	w := watch(t, s, "")
	w.want(t, "synced")
	execute(t, pgtest.Shared(t).URL(), strings.ReplaceAll(`
		BEGIN;
		UPDATE converge.counter SET revision = revision + 1;
		INSERT INTO converge.entries VALUES ('silent', 'x', (SELECT revision FROM converge.counter));
		INSERT INTO converge.changes SELECT revision, 1, 'silent', 'x' FROM converge.counter;
		COMMIT`, "converge.", s.Schema()+"."))
	w.want(t, "put silent x")
}

// A connection that is cut ends no watch, and what changed meanwhile comes.
func TestWatchGoesOnAfterACut(t *testing.T) {
	t.Parallel()
	p := newProxy(t, pgtest.Shared(t).Addr)
	s := open(t, postgres.Config{URL: pgtest.Shared(t).URL(p.addr())})
	other := open(t, postgres.Config{Schema: s.Schema()})
	all, some := watch(t, s, ""), watch(t, s, "a/")
	all.want(t, "synced")
	some.want(t, "synced")
	for i := range 4 {
		p.cut()
		mustPut(t, other, fmt.Sprintf("a/%d", i), "", 0)
		mustPut(t, other, fmt.Sprintf("b/%d", i), "", 0)
		some.want(t, fmt.Sprintf("put a/%d", i))
		all.want(t, fmt.Sprintf("put a/%d", i), fmt.Sprintf("put b/%d", i))
	}
}

// A database that was set back to an earlier state has lost what watchers saw.
func TestWatchOfARestoredDatabaseEnds(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.WithPoll(postgres.Config{}, 20*time.Millisecond))
	for i := range 5 {
		mustPut(t, s, fmt.Sprint(i), "", 0)
	}
	pull, stop := iter.Pull2(s.Watch(t.Context(), "x", 0))
	defer stop()
	pull()
	execute(t, pgtest.Shared(t).URL(), "UPDATE "+s.Schema()+".counter SET revision = 2")
	if _, err, _ := pull(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("Watch ends with %v", err)
	}
}

func TestLogIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{MaxLogBytes: 10000})
	value := strings.Repeat("v", 1000)
	first := mustPut(t, s, "first", "", 0)
	for i := range 40 {
		mustPut(t, s, fmt.Sprint(i), value, 0)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Logged(t.Context()); err != nil || n != 9 {
		t.Errorf("the log holds %d changes of some 1,000 bytes, %v, where 10,000 bytes are allowed", n, err)
	}
	for _, err := range s.Watch(t.Context(), "", first) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("Watch from a removed change: %v", err)
		}
	}
	mustPut(t, s, "huge", strings.Repeat(value, 100), 0)
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Logged(t.Context()); err != nil || n != 1 {
		t.Errorf("the log holds %d changes, %v, where the newest exceeds the bound", n, err)
	}
}

func TestLogIsBoundedByLength(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{MaxLog: 8})
	for i := range 50 {
		mustPut(t, s, fmt.Sprint(i), "", 0)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Logged(t.Context()); err != nil || n != 8 {
		t.Errorf("the log holds %d changes, %v", n, err)
	}
}

// The clock is the server's, which all processes share.
func TestClockIsTheServers(t *testing.T) {
	t.Parallel()
	stores := shared(t, 2, postgres.Config{})
	var last time.Time
	for i := range 6 {
		now, err := stores[i%2].Now(t.Context())
		if err != nil || now.Before(last) {
			t.Fatalf("%v after %v, %v", now, last, err)
		}
		last = now
	}
	if off := time.Since(last).Abs(); off > time.Minute {
		t.Errorf("the clock of this machine's server is off by %v", off)
	}
}

type watcher struct {
	pull func() (store.Event, error, bool)
}

func watch(t *testing.T, s store.Store, prefix string) watcher {
	pull, stop := iter.Pull2(s.Watch(t.Context(), prefix, 0))
	t.Cleanup(stop)
	return watcher{pull}
}

func (w watcher) want(t *testing.T, events ...string) {
	t.Helper()
	for _, want := range events {
		ev, err, ok := w.pull()
		if err != nil || !ok {
			t.Fatalf("Watch ends with %v, want %q", err, want)
		}
		if got := strings.TrimSpace(fmt.Sprintf("%s %s %s", ev.Op, ev.Entry.Key, ev.Entry.Value)); got != want {
			t.Fatalf("Watch gives %q, want %q", got, want)
		}
	}
}
