package postgres

import (
	"container/list"
	"context"
	"errors"
	"math"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/converge-agents/converge/store"
)

// Bounds of what waits to be written, and of one transaction. Who finds no room waits for it.
const (
	maxQueueBytes = 64 << 20
	maxBatch      = 1024
	maxBatchBytes = 4 << 20
	changeBytes   = 256 // of a change, besides its key and value
)

// change is one Put or Delete under way.
type change struct {
	key      string
	value    []byte // nil: a deletion
	revision int64  // that it replaces; -1: none that there can be
	weight   int64
	answer   chan answer // holds one

	queued *list.Element // nil once a batch has it; under the queue's mu
	left   bool          // nobody waits for the answer; under the queue's mu
}

type answer struct {
	revision store.Revision
	err      error
}

// newChange copies the value.
func newChange(key string, value []byte, rev store.Revision) *change {
	c := &change{key: key, revision: -1, weight: int64(len(key)+len(value)) + changeBytes, answer: make(chan answer, 1)}
	if rev <= math.MaxInt64 {
		c.revision = int64(rev)
	}
	if value != nil {
		c.value = append(make([]byte, 0, len(value)), value...)
	}
	if value == nil && rev == 0 {
		c.revision = -1 // a deletion of what is not there
	}
	return c
}

func (c *change) settle(rev store.Revision, err error) { c.answer <- answer{rev, err} }

// lose says why a change had no effect, given the revision of the entry, 0 for none.
func (c *change) lose(held int64) {
	if c.value == nil && held == 0 {
		c.settle(0, store.ErrNotFound)
		return
	}
	c.settle(0, store.ErrConflict)
}

// queue holds the changes that wait for a transaction.
type queue struct {
	room *semaphore.Weighted
	wake chan struct{} // holds one

	mu     sync.Mutex
	list   *list.List // of *change
	closed bool
}

func newQueue() *queue {
	return &queue{room: semaphore.NewWeighted(maxQueueBytes), wake: make(chan struct{}, 1), list: list.New()}
}

// do queues a change and waits for its answer. The context bounds the waiting; what waits in the queue when it
// ends is taken back.
func (q *queue) do(ctx context.Context, c *change) (store.Revision, error) {
	if err := q.room.Acquire(ctx, c.weight); err != nil {
		return 0, errWaiting
	}
	defer q.room.Release(c.weight)
	if err := q.push(c); err != nil {
		return 0, err
	}
	select {
	case a := <-c.answer:
		return a.revision, a.err
	case <-ctx.Done():
		return q.leave(c)
	}
}

// What became of changes whose caller's context ended. The caller puts the cause in their place.
var (
	errWaiting = errors.New("the change waited and was taken back")
	errSent    = errors.New("the change was sent")
)

func (q *queue) push(c *change) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return store.ErrClosed
	}
	c.queued = q.list.PushBack(c)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// leave gives up waiting for an answer, unless there is one.
func (q *queue) leave(c *change) (store.Revision, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case a := <-c.answer:
		return a.revision, a.err
	default:
	}
	c.left = true
	if c.queued == nil {
		return 0, errSent
	}
	q.list.Remove(c.queued)
	return 0, errWaiting
}

// take moves changes from the queue to a batch, as many as fit into one.
func (q *queue) take() []*change {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []*change
	for size := int64(0); q.list.Len() > 0 && len(batch) < maxBatch && size < maxBatchBytes; {
		c := q.list.Remove(q.list.Front()).(*change)
		c.queued = nil
		size += c.weight
		batch = append(batch, c)
	}
	return batch
}

// gather lets the callers whom the last batch served come back, for as long as more come, so that callers do not split
// into groups that take turns.
func (q *queue) gather() {
	for idle, seen := 0, q.length(); idle < 4; idle++ {
		runtime.Gosched()
		if now := q.length(); now > seen {
			idle, seen = 0, now
		}
	}
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.list.Len()
}

// stay returns those for which somebody still waits.
func (q *queue) stay(changes []*change) []*change {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept := changes[:0]
	for _, c := range changes {
		if !c.left {
			kept = append(kept, c)
		}
	}
	return kept
}

// close refuses what comes and answers what waits.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for q.list.Len() > 0 {
		c := q.list.Remove(q.list.Front()).(*change)
		c.queued = nil
		c.settle(0, store.ErrClosed)
	}
}
