package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/store"
)

const racers = 8

// race runs fn in goroutines that start together, and waits for them.
func race(fn func(racer int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		all.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	all.Wait()
}

// testCompareAndSetRace counts up in one entry: a lost update would lose a count.
func testCompareAndSetRace(t *testing.T, s store.Store) {
	const rounds = countRounds
	put(t, s, "counter", string(make([]byte, 8)), 0)
	var seen sync.Map
	race(func(int) {
		for range rounds {
			rev, err := increment(t.Context(), s)
			if err != nil {
				t.Errorf("increment: %v", err)
				return
			}
			if _, twice := seen.LoadOrStore(rev, true); twice {
				t.Errorf("revision %d was given out twice", rev)
			}
		}
	})
	e, err := s.Get(t.Context(), "counter")
	if err != nil || binary.BigEndian.Uint64(e.Value) != racers*rounds {
		t.Errorf("%d racers counted to %x, %v, want %d", racers, e.Value, err, racers*rounds)
	}
}

func increment(ctx context.Context, s store.Store) (store.Revision, error) {
	for {
		e, err := s.Get(ctx, "counter")
		if err != nil {
			return 0, err
		}
		count := binary.BigEndian.Uint64(e.Value)
		rev, err := s.Put(ctx, "counter", binary.BigEndian.AppendUint64(nil, count+1), e.Revision)
		if !errors.Is(err, store.ErrConflict) {
			return rev, err
		}
	}
}

func testCreateRace(t *testing.T, s store.Store) {
	for round := range 20 {
		key := fmt.Sprintf("create/%d", round)
		var winners atomic.Int32
		race(func(int) {
			_, err := s.Put(t.Context(), key, nil, 0)
			countWinner(t, &winners, err, store.ErrConflict)
		})
		if n := winners.Load(); n != 1 {
			t.Errorf("%d racers created %s", n, key)
		}
	}
}

func testDeleteRace(t *testing.T, s store.Store) {
	for round := range 20 {
		key := fmt.Sprintf("delete/%d", round)
		rev := put(t, s, key, "", 0)
		var winners atomic.Int32
		race(func(racer int) {
			if racer%2 == 0 {
				countWinner(t, &winners, s.Delete(t.Context(), key, rev), store.ErrNotFound, store.ErrConflict)
			} else {
				_, err := s.Put(t.Context(), key, nil, rev)
				countWinner(t, &winners, err, store.ErrConflict)
			}
		})
		if n := winners.Load(); n != 1 {
			t.Errorf("%d racers changed %s at one revision", n, key)
		}
	}
}

func countWinner(t *testing.T, winners *atomic.Int32, err error, losing ...error) {
	if err == nil {
		winners.Add(1)
		return
	}
	for _, want := range losing {
		if errors.Is(err, want) {
			return
		}
	}
	t.Errorf("a racer gets %v", err)
}

func testClose(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "", 0)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	ctx := t.Context()
	_, err := s.Get(ctx, "a")
	wantError(t, "Get after Close", err, store.ErrClosed)
	_, err = s.Put(ctx, "b", nil, 0)
	wantError(t, "Put after Close", err, store.ErrClosed)
	wantError(t, "Delete after Close", s.Delete(ctx, "a", rev), store.ErrClosed)
	_, err = collect(s.List(ctx, ""))
	wantError(t, "List after Close", err, store.ErrClosed)
	wantError(t, "Watch after Close", watch(t, s, "", 0).err(), store.ErrClosed)
	wantError(t, "Watch from a revision after Close", watch(t, s, "", rev).err(), store.ErrClosed)
}

func testCloseEndsWatch(t *testing.T, s store.Store) {
	ready := make(chan struct{}, racers)
	ended := make(chan error, racers)
	for range racers {
		go func() { ended <- watchUntilError(t.Context(), s, "", ready) }()
	}
	for range racers {
		<-ready
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for range racers {
		wantError(t, "Watch when the store closes", <-ended, store.ErrClosed)
	}
}

// testCloseUnderLoad closes the store amid calls: each must end, and well or with ErrClosed.
func testCloseUnderLoad(t *testing.T, s store.Store) {
	const warm = 5 // rounds before the store may close
	var busy, all sync.WaitGroup
	busy.Add(racers)
	for racer := range racers {
		all.Go(func() {
			for i := 0; ; i++ {
				err := exercise(t.Context(), s, fmt.Sprintf("load/%d", racer))
				if i == warm || i < warm && err != nil {
					busy.Done()
				}
				if i >= warm && errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("a call when the store closes gives %v", err)
					return
				}
			}
		})
	}
	busy.Wait()
	race(func(int) {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	all.Wait()
}

// exercise makes one call of each kind; key belongs to the caller.
func exercise(ctx context.Context, s store.Store, key string) error {
	rev, err := s.Put(ctx, key, nil, 0)
	if err != nil {
		return err
	}
	if _, err := s.Get(ctx, key); err != nil {
		return err
	}
	if _, err := collect(s.List(ctx, "load/")); err != nil {
		return err
	}
	for _, err := range s.Watch(ctx, key, 0) {
		if err != nil {
			return err
		}
		break
	}
	return s.Delete(ctx, key, rev)
}
