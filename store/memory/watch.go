package memory

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/converge-agents/converge/store"
)

// Bounds of one turn with the lock: changes handed to a watcher, and changes looked at.
const (
	batchLength = 1024
	scanLength  = 8192
)

// waiter is a watcher that has seen every change and wants to hear of the next under its prefix. The
// changes that do not concern it pass it by, so it does not fall off the log while it waits.
type waiter struct {
	prefix string
	seen   store.Revision // every change up to here was handed out or is of no concern
	woken  chan struct{}  // holds one
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		more := true
		emit := func(op store.Op, e store.Entry) bool {
			more = yield(store.Event{Op: op, Entry: e}, nil)
			return more
		}
		err := s.watch(ctx, prefix, after, emit)
		if more && err != nil {
			yield(store.Event{}, prefixError("watch", prefix, err))
		}
	}
}

// watch returns an error, or nil once emit has returned false.
func (s *Store) watch(ctx context.Context, prefix string, after store.Revision, emit func(store.Op, store.Entry) bool) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return err
	}
	if after == 0 {
		more := true
		now, err := s.each(ctx, prefix, "", func(e store.Entry) bool {
			more = emit(store.OpPut, e)
			return more
		})
		if err != nil || !more || !emit(store.OpSynced, store.Entry{Revision: now}) {
			return err
		}
		after = now
	}
	return s.follow(ctx, &waiter{prefix: prefix, seen: after, woken: make(chan struct{}, 1)}, emit)
}

// follow hands out the changes after w.seen as they come.
func (s *Store) follow(ctx context.Context, w *waiter, emit func(store.Op, store.Entry) bool) error {
	var batch []*item
	for ctx.Err() == nil {
		var err error
		if batch, err = s.read(w, batch[:0]); err != nil {
			return err
		}
		for _, change := range batch {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !emit(opOf(change), change.entry()) {
				return nil
			}
		}
		clear(batch)
		if len(batch) == 0 {
			if err := s.wait(ctx, w); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

func opOf(change *item) store.Op {
	if change.deleted {
		return store.OpDelete
	}
	return store.OpPut
}

// read appends changes after w.seen to batch and moves w.seen past them. An empty batch does not mean
// that there are no more.
func (s *Store) read(w *waiter, batch []*item) ([]*item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, store.ErrClosed
	}
	if w.seen+1 < s.log.first || w.seen >= s.log.next {
		return nil, store.ErrCompacted
	}
	end := min(s.log.next, w.seen+1+scanLength)
	for w.seen+1 < end && len(batch) < batchLength {
		w.seen++
		if change := s.log.at(w.seen); strings.HasPrefix(change.key, w.prefix) {
			batch = append(batch, change)
		}
	}
	return batch, nil
}

// wait returns when there may be changes after w.seen.
func (s *Store) wait(ctx context.Context, w *waiter) error {
	s.mu.Lock()
	caughtUp := w.seen+1 == s.log.next && !s.isClosed()
	if caughtUp {
		s.waiting = append(s.waiting, w)
	}
	s.mu.Unlock()
	if !caughtUp {
		return nil
	}
	select {
	case <-w.woken:
		return nil
	case <-s.closed:
		return store.ErrClosed
	case <-ctx.Done():
		s.forget(w)
		return context.Cause(ctx)
	}
}

// wake ends the wait of those whom a change concerns. It wants mu held.
func (s *Store) wake(change *item) {
	s.waiting = slices.DeleteFunc(s.waiting, func(w *waiter) bool {
		if !strings.HasPrefix(change.key, w.prefix) {
			return false
		}
		w.seen = change.revision - 1
		w.woken <- struct{}{}
		return true
	})
}

func (s *Store) forget(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(other *waiter) bool { return other == w })
}
