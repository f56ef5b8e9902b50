package natskv

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Bounds of one turn with the view's lock: changes handed to a watcher, and changes looked at.
const (
	batchLength = 1024
	scanLength  = 8192
)

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return changes.Sequence(
		func(emit func(store.Event) bool) error {
			return s.watch(ctx, prefix, uint64(after), func(op store.Op, e store.Entry) bool {
				return emit(store.Event{Op: op, Entry: e})
			})
		},
		func(err error) error { return prefixError("watch", prefix, err) },
	)
}

// watch returns an error, or nil once emit has returned false.
func (s *Store) watch(ctx context.Context, prefix string, after uint64, emit func(store.Op, store.Entry) bool) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	w := newWaiter(prefix)
	if after == 0 {
		snap, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		more, err := snap.each(ctx, prefix, prefix, func(e store.Entry) bool { return emit(store.OpPut, e) })
		if err != nil || !more || !emit(store.OpSynced, store.Entry{Revision: store.Revision(snap.position)}) {
			return err
		}
		w.seen, w.life = snap.position, snap.life
	} else if err := s.resume(ctx, w, after); err != nil {
		return err
	}
	return s.hand(ctx, w, emit)
}

// resume sets w to a revision that the bucket has given out.
func (s *Store) resume(ctx context.Context, w *waiter, after uint64) error {
	s.needFeed()
	if err := s.await(ctx, 0); err != nil {
		return err
	}
	position, life := s.view.at()
	if after > position {
		last, err := s.lastSequence(ctx)
		if err != nil {
			return err
		}
		if after > last {
			return store.ErrCompacted
		}
	}
	w.seen, w.life = after, life
	return nil
}

func (v *view) at() (position uint64, life int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.position, v.life
}

// hand hands out the changes after w.seen as they come.
func (s *Store) hand(ctx context.Context, w *waiter, emit func(store.Op, store.Entry) bool) error {
	var batch []*change
	for ctx.Err() == nil {
		var err error
		batch, err = s.view.read(w, batch[:0])
		if errors.Is(err, errBehind) {
			if more, err := s.catchUp(ctx, w, emit); err != nil || !more {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, d := range batch {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !emit(d.op(), d.entry()) {
				return nil
			}
		}
		if len(batch) == 0 {
			if err := s.wait(ctx, w); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

func (d *change) op() store.Op {
	if d.deleted {
		return store.OpDelete
	}
	return store.OpPut
}

// concerns reports whether d is a change under a prefix.
func (d *change) concerns(prefix string) bool { return d.key != "" && strings.HasPrefix(d.key, prefix) }

// errBehind says that the changes due are not in the view's log any more.
var errBehind = errors.New("the changes are in the stream only")

// read appends changes after w.seen to batch and moves w.seen past them. An empty batch does not mean
// that there are no more.
func (v *view) read(w *waiter, batch []*change) ([]*change, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case w.life != v.life, w.seen < v.position && v.position-w.seen > v.maxLog:
		return nil, store.ErrCompacted
	case w.seen+1 < v.log.first:
		return nil, errBehind
	}
	for scanned := 0; w.seen+1 < v.log.next() && len(batch) < batchLength && scanned < scanLength; scanned++ {
		w.seen++
		if d := v.log.at(w.seen); d.concerns(w.prefix) {
			batch = append(batch, d)
		}
	}
	return batch, nil
}

// wait returns when there may be changes after w.seen.
func (s *Store) wait(ctx context.Context, w *waiter) error {
	if !s.view.park(w) {
		return nil
	}
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
		s.view.forget(w)
		return context.Cause(ctx)
	}
}

// park makes w wait if it has seen all there is.
func (v *view) park(w *waiter) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w.life != v.life || w.seen < v.position {
		return false
	}
	v.waiting.add(w)
	return true
}

// catchUp hands out changes from the stream, until the view's log has those that are left. It returns
// store.ErrCompacted unless each sequence is there.
func (s *Store) catchUp(ctx context.Context, w *waiter, emit func(store.Op, store.Entry) bool) (more bool, err error) {
	var r retry
	for {
		before := w.seen
		more, err := s.reread(ctx, w, emit)
		if err == nil || !more || errors.Is(err, store.ErrCompacted) || isFinal(err) && ctx.Err() == nil {
			return more, err
		}
		if w.seen != before {
			r = retry{}
		}
		if err := r.pause(ctx, s.config.Patience, err); err != nil {
			return true, err
		}
	}
}

// reread is one attempt to catch up.
func (s *Store) reread(ctx context.Context, w *waiter, emit func(store.Op, store.Entry) bool) (more bool, err error) {
	if err := s.stillKept(ctx, w); err != nil {
		return true, err
	}
	c, err := s.newConsumer(ctx, w.seen+1)
	if err != nil {
		return true, err
	}
	defer c.stop(ctx)
	for s.view.isAhead(w) {
		d, err := c.next(ctx, 2*stall)
		if err != nil {
			return true, err
		}
		if d.sequence != w.seen+1 {
			return true, store.ErrCompacted
		}
		w.seen = d.sequence
		if d.concerns(w.prefix) && !emit(d.op(), d.entry()) {
			return false, nil
		}
	}
	return true, nil
}

// stillKept returns store.ErrCompacted if the change after w.seen is not in the stream.
func (s *Store) stillKept(ctx context.Context, w *waiter) error {
	return s.attempt(ctx, func(ctx context.Context) error {
		_, err := s.stream.GetMsg(ctx, w.seen+1)
		if isMissing(err) {
			return store.ErrCompacted
		}
		return err
	})
}

// isAhead reports whether w has to read on from the stream. What read refuses, it refuses.
func (v *view) isAhead(w *waiter) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return w.life == v.life && w.seen+1 < v.log.first && v.position-w.seen <= v.maxLog
}
