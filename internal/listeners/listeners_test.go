package listeners_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/internal/listeners"
)

func TestWhoIsDetachedHearsNothingMore(t *testing.T) {
	var list listeners.List[int]
	var first, second []int
	nothing := func() {}
	detach := list.Attach(func(i int) { first = append(first, i) }, nothing, nothing)
	list.Attach(func(i int) { second = append(second, i) }, nothing, nothing)
	list.Tell(1, 2)
	detach()
	detach()
	list.TellIf(func() bool { return false }, 3)
	list.TellIf(func() bool { return true }, 4)
	if !slices.Equal(first, []int{1, 2}) || !slices.Equal(second, []int{1, 2, 4}) {
		t.Errorf("told %v and %v", first, second)
	}
}

func TestTheFirstStartsAndTheLastStops(t *testing.T) {
	var list listeners.List[int]
	var calls []string
	attach := func() func() {
		return list.Attach(func(int) {}, func() { calls = append(calls, "start") }, func() { calls = append(calls, "stop") })
	}
	one, two := attach(), attach()
	one()
	one()
	if !slices.Equal(calls, []string{"start"}) {
		t.Errorf("with one attached: %v", calls)
	}
	two()
	attach()()
	if !slices.Equal(calls, []string{"start", "stop", "start", "stop"}) {
		t.Errorf("in the end: %v", calls)
	}
}

func TestStartAndStopTakeTurns(t *testing.T) {
	var list listeners.List[int]
	var running atomic.Int32
	start := func() {
		if running.Add(1) != 1 {
			t.Error("started twice")
		}
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				list.Attach(func(int) {}, start, func() { running.Add(-1) })()
			}
		})
	}
	all.Wait()
	if running.Load() != 0 {
		t.Error("it was not stopped")
	}
}
