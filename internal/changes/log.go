package changes

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/store"
)

// batchLength is the most changes that a watcher takes in one turn with the lock, which those who write wait for.
const batchLength = 64

// Log holds the latest changes of a store; [New] makes one. All methods are safe for concurrent use.
type Log struct {
	closed chan struct{} // closed under mu

	mu       brief.Mutex
	_        [56]byte // see brief.Mutex
	ring     ring
	expected store.Revision // changes up to here happened or are happening
	waiting  []*waiter
	end      error // why it is closed
}

// waiter is a watcher that has seen every change and wants to hear of the next under its prefix.
type waiter struct {
	prefix string
	seen   store.Revision // every change up to here was handed out or is of no concern
	woken  chan struct{}  // holds one
}

// New makes a log whose first change has the revision that follows last. It keeps at most maxLength
// changes, and of those the latest whose keys and values are within maxBytes; the newest change is kept
// whatever its size.
func New(maxLength int, maxBytes int64, last store.Revision) *Log {
	return &Log{
		closed:   make(chan struct{}),
		ring:     ring{first: last + 1, next: last + 1, maxLength: maxLength, maxBytes: maxBytes},
		expected: last,
	}
}

// Expect says that the changes up to a revision are about to happen: whoever can see them already, since
// they are visible before [Log.Add] is called, may follow from there. With a lower revision it takes that
// back, for changes that did not happen.
func (l *Log) Expect(last store.Revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected = last
}

// Add appends changes, each with the revision that follows the one before it, and wakes the watchers that
// they concern.
func (l *Log) Add(changes ...*Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return
	}
	for _, change := range changes {
		l.ring.add(change)
		l.wake(change)
	}
	l.expected = max(l.expected, l.ring.next-1)
}

// wake ends the wait of those whom a change concerns. It wants mu held.
func (l *Log) wake(change *Change) {
	l.waiting = slices.DeleteFunc(l.waiting, func(w *waiter) bool {
		if !strings.HasPrefix(change.Key(), w.prefix) {
			return false
		}
		w.seen = max(w.seen, change.Revision-1)
		w.woken <- struct{}{}
		return true
	})
}

// Close ends all that follow the log with an error, and drops the changes. Only the first call counts.
func (l *Log) Close(end error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return
	}
	l.end, l.ring.slots, l.waiting = end, nil, nil
	close(l.closed)
}

// Follow hands out the changes later than after under a prefix, as they come, until emit returns false;
// then it returns nil. Otherwise it returns the context's cause, the error of [Log.Close], or
// [store.ErrCompacted] where the log does not hold all changes that are due or where after is a revision
// that there was not.
func (l *Log) Follow(ctx context.Context, prefix string, after store.Revision, emit func(*Change) bool) error {
	w := &waiter{prefix: prefix, seen: after, woken: make(chan struct{}, 1)}
	if l.unknown(after) {
		return store.ErrCompacted
	}
	var batch []*Change
	for ctx.Err() == nil {
		var err error
		if batch, err = l.read(w, batch[:0]); err != nil {
			return err
		}
		for _, change := range batch {
			if !strings.HasPrefix(change.Key(), prefix) {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !emit(change) {
				return nil
			}
		}
		clear(batch)
		if len(batch) == batchLength {
			continue // it is behind those who write
		}
		if len(batch) > 0 {
			runtime.Gosched() // those who write go on, and there is more to take in one turn
		} else if err := l.wait(ctx, w); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (l *Log) unknown(after store.Revision) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end == nil && after > l.expected
}

// read appends changes after w.seen to batch, whatever their keys, and moves w.seen past them. An empty batch does
// not mean that there are no more.
func (l *Log) read(w *waiter, batch []*Change) ([]*Change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return nil, l.end
	}
	if w.seen+1 < l.ring.first {
		return nil, store.ErrCompacted
	}
	for w.seen+1 < l.ring.next && len(batch) < batchLength {
		w.seen++
		batch = append(batch, l.ring.at(w.seen).Change)
	}
	return batch, nil
}

// wait returns when there may be changes after w.seen.
func (l *Log) wait(ctx context.Context, w *waiter) error {
	l.mu.Lock()
	caughtUp := w.seen+1 >= l.ring.next && l.end == nil
	if caughtUp {
		l.waiting = append(l.waiting, w)
	}
	l.mu.Unlock()
	if !caughtUp {
		return nil
	}
	select {
	case <-w.woken:
		return nil
	case <-l.closed:
		return l.end
	case <-ctx.Done():
		l.forget(w)
		return context.Cause(ctx)
	}
}

func (l *Log) forget(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(other *waiter) bool { return other == w })
}
