// Package group lets callers that come at the same time share one piece of work, and lets one that comes
// alone begin at once: a group commit, without a timer.
package group

import (
	"runtime"
	"slices"
	"sync"
)

// Commit is a group commit for items of one kind. The zero value is ready for use; it must not be copied
// after its first use. It is safe for concurrent use. Each caller waits with one item, so the callers bound
// what waits.
type Commit[T any] struct {
	// Yield lets goroutines that are ready to run go before a caller that finds nobody at work, so that more of
	// them share the work where there are fewer processors than callers. Where there are none, it costs less
	// than a microsecond.
	Yield bool

	mu      sync.Mutex
	working bool
	waiting []*waiter[T]
}

// waiter is a caller whose item waits.
type waiter[T any] struct {
	item T
	turn chan bool // true: work for all that wait; false: the item is done
}

// Do returns when the work for item has been done. A caller that finds nobody at work does it for its own
// item, with alone, whose error it returns. Those that come meanwhile wait, and the first of them then calls
// together for up to most of them in the order in which they came; that may be for its own item only. What
// goes wrong with an item in together is kept in the item.
func (c *Commit[T]) Do(item T, most int, alone func(T) error, together func([]T)) error {
	w := c.enter(item)
	if w == nil {
		return c.first(item, most, alone, together)
	}
	if <-w.turn {
		c.serve(nil, c.take(most), w, together)
	}
	return nil
}

// first does the work of a caller that has found nobody at it.
func (c *Commit[T]) first(item T, most int, alone func(T) error, together func([]T)) error {
	if c.Yield {
		runtime.Gosched()
		if taken := c.take(most - 1); len(taken) > 0 {
			c.serve([]T{item}, taken, nil, together)
			return nil
		}
	}
	defer c.leave()
	return alone(item)
}

// serve does the work for items and for those who wait, of whom the caller may be one.
func (c *Commit[T]) serve(items []T, taken []*waiter[T], caller *waiter[T], together func([]T)) {
	defer func() {
		c.leave()
		for _, t := range taken {
			if t != caller {
				t.turn <- false
			}
		}
	}()
	items = slices.Grow(items, len(taken))
	for _, t := range taken {
		items = append(items, t.item)
	}
	together(items)
}

// enter returns nil if the caller is to work at once, and otherwise the place where it waits.
func (c *Commit[T]) enter(item T) *waiter[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.working {
		c.working = true
		return nil
	}
	w := &waiter[T]{item, make(chan bool, 1)}
	c.waiting = append(c.waiting, w)
	return w
}

// take removes those for whom the next piece of work is.
func (c *Commit[T]) take(most int) []*waiter[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), most)
	taken := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	return taken
}

// leave lets the first of those who wait work next.
func (c *Commit[T]) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.working, c.waiting = false, nil
		return
	}
	c.waiting[0].turn <- true
}
