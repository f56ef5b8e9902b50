// Package queue holds the bounded first-in, first-out queue that stands between two parties of
// different speed: a listener and an inbox, a sender and a connection.
//
// Memory follows the number of items, not the capacity: an unused queue costs less than 200 bytes,
// whatever its capacity, and a drained one keeps four slots. A queue starts no goroutine, so one
// that is forgotten is garbage like any other value.
package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
)

var (
	// ErrFull is the refusal of [Queue.Put] on a full queue with [DropNewest].
	ErrFull = errors.New("queue is full")
	// ErrClosed is the answer of [Queue.Put] after [Queue.Close], and of [Queue.Get] once a closed
	// queue is empty.
	ErrClosed = errors.New("queue is closed")
)

// errEmpty is take's answer on an open queue without items.
var errEmpty = errors.New("queue is empty")

// Policy says what [Queue.Put] does when the queue is full.
type Policy uint8

const (
	// Block makes Put wait for room. Waiting Puts are served in the order of their arrival, and no
	// later Put overtakes them.
	Block Policy = iota
	// DropNewest makes Put refuse the item with ErrFull at once, and count it.
	DropNewest
)

// minRing is the number of slots that a ring has at least, once there is one.
const minRing = 4

// Queue is a bounded first-in, first-out queue; [New] makes one. All methods are safe for concurrent
// use by any number of producers and consumers. Items that are put by one goroutine come out in its
// order.
type Queue[T any] struct {
	mu       sync.Mutex
	ring     []T // the items, from head on and around; the length is 0 or a power of two
	head     uint32
	items    uint32
	capacity uint32
	whenFull Policy
	closed   bool
	dropped  uint64
	waiting  *waiter[T]    // blocked Puts; there are none unless the queue is full
	ready    chan struct{} // see Ready; nil until somebody needs it
}

// New makes an empty queue for at most capacity items. It panics if the capacity is less than one or
// more than 2³¹−1: a queue without a bound, or without room, is a mistake in the program.
func New[T any](capacity int, whenFull Policy) *Queue[T] {
	if capacity < 1 || capacity > math.MaxInt32 {
		panic(fmt.Sprintf("queue: capacity %d is not between 1 and %d", capacity, math.MaxInt32))
	}
	return &Queue[T]{capacity: uint32(capacity), whenFull: whenFull}
}

// Put appends v. On a full queue it waits or refuses as the queue's [Policy] says. An error means that
// v is not in the queue and never will be: [ErrClosed], also for a Put that was waiting when the
// queue was closed; [ErrFull]; or the cause of ctx, if ctx is done before there is room.
func (q *Queue[T]) Put(ctx context.Context, v T) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w, err := q.put(v)
	if w == nil {
		return err
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return q.giveUp(ctx, w)
	}
}

// TryPut appends v if there is room at once, and reports whether it did. It does not wait, and a refusal
// is not counted: the caller may go on with [Queue.Put].
func (q *Queue[T]) TryPut(v T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.items >= q.capacity {
		return false
	}
	q.push(v)
	q.settle()
	return true
}

// Get removes the oldest item, and waits for one if there is none. A closed queue gives what is left,
// then [ErrClosed]. If ctx is done before there is an item, or already when Get is called, the error
// is the cause of ctx and no item is lost.
func (q *Queue[T]) Get(ctx context.Context) (T, error) {
	if ctx.Err() != nil {
		var none T
		return none, context.Cause(ctx)
	}
	for {
		v, ready, err := q.take(true)
		if err != errEmpty {
			return v, err
		}
		select {
		case <-ready: // a token goes back with the next take, so a Get that wakes has to take
		case <-ctx.Done():
			return v, context.Cause(ctx)
		}
	}
}

// TryGet removes the oldest item. It does not wait: ok is false if there is none.
func (q *Queue[T]) TryGet() (v T, ok bool) {
	v, _, err := q.take(false)
	return v, err == nil
}

// TakeUpTo removes the oldest items, at most n of them, and returns them in a slice that is the
// caller's. It does not wait: the slice is nil if there is no item.
func (q *Queue[T]) TakeUpTo(n int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.settle()
	n = min(n, int(q.items))
	if n <= 0 {
		return nil
	}
	taken := make([]T, n)
	for i := range taken {
		taken[i] = q.pop()
	}
	return taken
}

// Ready returns a channel for select statements; it is the same one at each call. It holds a token
// while the queue has items, and it is closed when the queue is. Whoever receives the token owes a
// [Queue.TryGet] or [Queue.TakeUpTo], which puts it back if items remain. A token is a hint: another
// consumer may have been faster. A loop over Ready ends when [Queue.Drained] says so.
func (q *Queue[T]) Ready() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.signal()
}

// Len returns the number of items in the queue; those of waiting Puts are not in it yet.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(q.items)
}

// Dropped returns how many items were refused with [ErrFull].
func (q *Queue[T]) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Drained reports whether the queue is closed and empty, so that nothing will ever come out again.
func (q *Queue[T]) Drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && q.items == 0
}

// Close refuses further items and wakes all who wait: blocked Puts fail with [ErrClosed], and Gets
// take what is left, then fail with it too. Closing twice is fine.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	if q.ready != nil {
		close(q.ready)
	}
	for q.waiting != nil {
		q.dismiss(q.waiting, ErrClosed)
	}
}

// put appends v, or says why not, or returns the waiter that stands in the line for it.
func (q *Queue[T]) put(v T) (*waiter[T], error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil, ErrClosed
	case q.items < q.capacity:
		q.push(v)
		q.settle()
		return nil, nil
	case q.whenFull == DropNewest:
		q.dropped++
		return nil, ErrFull
	}
	return q.enlist(v), nil
}

// giveUp ends the wait of a Put whose ctx is done, unless its item was let in just before.
func (q *Queue[T]) giveUp(ctx context.Context, w *waiter[T]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.next != nil {
		q.dismiss(w, context.Cause(ctx))
	}
	return w.err
}

// take removes the oldest item. If there is none, it returns errEmpty and, for those who want to wait,
// the channel to wait on.
func (q *Queue[T]) take(wait bool) (v T, ready <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.items > 0:
		v = q.pop()
		q.settle()
	case q.closed:
		err = ErrClosed
	case wait:
		ready, err = q.signal(), errEmpty
	default:
		err = errEmpty
	}
	return v, ready, err
}

// settle restores the order of things after items came or went: no Put waits while there is room, the
// ring fits its items, and the token is there if items are.
func (q *Queue[T]) settle() {
	for q.waiting != nil && q.items < q.capacity {
		q.push(q.waiting.value)
		q.dismiss(q.waiting, nil)
	}
	if len(q.ring) > minRing && int(q.items) <= len(q.ring)/4 {
		q.resize()
	}
	if q.ready != nil {
		q.signal()
	}
}

// signal makes the ready channel, if need be, and puts it into the state that the items call for.
func (q *Queue[T]) signal() <-chan struct{} {
	if q.ready == nil {
		q.ready = make(chan struct{}, 1)
		if q.closed {
			close(q.ready)
		}
	}
	switch {
	case q.closed:
	case q.items > 0:
		select {
		case q.ready <- struct{}{}:
		default:
		}
	default:
		select {
		case <-q.ready:
		default:
		}
	}
	return q.ready
}
