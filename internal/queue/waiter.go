package queue

// waiter is a Put that waits for room. Whoever makes room moves its value to the ring, so that a Put
// that arrives later cannot overtake it.
type waiter[T any] struct {
	value      T
	done       chan struct{} // closed when the wait is over
	err        error         // its outcome; nil: the value is in the queue
	prev, next *waiter[T]    // a closed chain, oldest first; next is nil when the wait is over
}

// enlist puts a waiter for v at the end of the line; q.mu is held.
func (q *Queue[T]) enlist(v T) *waiter[T] {
	w := &waiter[T]{value: v, done: make(chan struct{})}
	if q.waiting == nil {
		w.prev, w.next = w, w
		q.waiting = w
		return w
	}
	w.prev, w.next = q.waiting.prev, q.waiting
	w.prev.next, w.next.prev = w, w
	return w
}

// dismiss takes a waiter out of the line and ends its wait; q.mu is held.
func (q *Queue[T]) dismiss(w *waiter[T], err error) {
	w.prev.next, w.next.prev = w.next, w.prev
	if q.waiting == w {
		q.waiting = w.next
	}
	if q.waiting == w {
		q.waiting = nil
	}
	w.prev, w.next = nil, nil
	w.err = err
	close(w.done)
}
