package queue

// The methods of this file expect q.mu to be held.

// push appends v to the ring; the caller has seen that there is room.
func (q *Queue[T]) push(v T) {
	if int(q.items) == len(q.ring) {
		q.resize()
	}
	q.ring[q.slot(q.items)] = v
	q.items++
}

// pop removes the oldest item; the caller has seen that there is one. The slot is cleared, so that
// the ring keeps nothing alive.
func (q *Queue[T]) pop() T {
	var none T
	v := q.ring[q.head]
	q.ring[q.head] = none
	q.head = q.slot(1)
	q.items--
	return v
}

// slot returns the index of the i-th item.
func (q *Queue[T]) slot(i uint32) uint32 { return (q.head + i) & uint32(len(q.ring)-1) }

// resize moves the items to the smallest ring that they fill by half at most. Rings grow when they are
// full and shrink when three quarters are empty, so each move is paid for by as many puts or takes.
func (q *Queue[T]) resize() {
	size := minRing
	for size < 2*int(q.items) {
		size *= 2
	}
	ring := make([]T, size)
	for i := range q.items {
		ring[i] = q.ring[q.slot(i)]
	}
	q.ring, q.head = ring, 0
}
