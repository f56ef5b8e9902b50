package group_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/converge-agents/converge/internal/group"
)

var errAlone = errors.New("alone")

func TestWhoComesAloneWorksAlone(t *testing.T) {
	t.Parallel()
	var c group.Commit[int]
	for i := range 3 {
		err := c.Do(i, 10, func(got int) error {
			if got != i {
				t.Errorf("item %d came as %d", i, got)
			}
			return errAlone
		}, func([]int) { t.Error("nobody else is there") })
		if !errors.Is(err, errAlone) {
			t.Errorf("error %v", err)
		}
	}
}

// TestThoseWhoComeMeanwhileShareTheWork holds the first one up until six more wait, of whom four fit.
func TestThoseWhoComeMeanwhileShareTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c group.Commit[int]
		var all sync.WaitGroup
		var mu sync.Mutex
		var pieces [][]int
		work := func(items ...int) {
			mu.Lock()
			defer mu.Unlock()
			pieces = append(pieces, slices.Clone(items))
		}
		first := make(chan struct{})
		enter := func(item int) {
			all.Go(func() {
				c.Do(item, 4, func(item int) error {
					<-first
					work(item)
					return nil
				}, func(items []int) { work(items...) })
				mu.Lock()
				defer mu.Unlock()
				if !slices.ContainsFunc(pieces, func(p []int) bool { return slices.Contains(p, item) }) {
					t.Errorf("Do returned before item %d was done", item)
				}
			})
			synctest.Wait()
		}
		for i := range 7 {
			enter(i)
		}
		close(first)
		all.Wait()
		if want := [][]int{{0}, {1, 2, 3, 4}, {5, 6}}; !slices.EqualFunc(pieces, want, slices.Equal) {
			t.Errorf("the pieces of work were %v, not %v", pieces, want)
		}
	})
}

// TestYieldingLetsOthersJoinTheFirst wakes three callers, the first of which lets the others come before.
func TestYieldingLetsOthersJoinTheFirst(t *testing.T) {
	t.Parallel()
	c := group.Commit[int]{Yield: true}
	var most atomic.Int64
	note := func(n int) {
		if int64(n) > most.Load() {
			most.Store(int64(n))
		}
	}
	for range 1000 { // who comes first is up to the scheduler
		var all sync.WaitGroup
		done := [3]bool{}
		for i := range done {
			all.Go(func() {
				c.Do(i, 2, func(i int) error { done[i] = true; note(1); return nil }, func(items []int) {
					note(len(items))
					for _, i := range items {
						done[i] = true
					}
				})
			})
		}
		all.Wait()
		if done != [3]bool{true, true, true} {
			t.Fatalf("done are %v", done)
		}
	}
	if n := most.Load(); n != 2 {
		t.Errorf("up to %d items were worked for together, want 2", n)
	}
}

// TestPanicsHoldNobodyUp lets the work for one go wrong in the worst way.
func TestPanicsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	var c group.Commit[int]
	func() {
		defer func() { _ = recover() }()
		c.Do(1, 1, func(int) error { panic("as told") }, nil)
	}()
	if err := c.Do(2, 1, func(int) error { return errAlone }, nil); !errors.Is(err, errAlone) {
		t.Errorf("the next one got %v", err)
	}
}

// TestEveryItemIsWorkedForOnce is for the race detector.
func TestEveryItemIsWorkedForOnce(t *testing.T) {
	t.Parallel()
	var c group.Commit[*int]
	var all sync.WaitGroup
	items := make([]int, 2000)
	for worker := range 20 {
		all.Go(func() {
			for i := worker; i < len(items); i += 20 {
				c.Do(&items[i], 7, func(n *int) error { *n++; return nil }, func(some []*int) {
					if len(some) > 7 {
						t.Errorf("%d items at once", len(some))
					}
					for _, n := range some {
						*n++
					}
				})
				if items[i] != 1 {
					t.Errorf("item %d was worked for %d times", i, items[i])
				}
			}
		})
	}
	all.Wait()
}
