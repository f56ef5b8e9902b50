package memory

import (
	"context"
	"iter"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		more := true
		emit := func(ev store.Event) bool {
			more = yield(ev, nil)
			return more
		}
		err := s.watch(ctx, prefix, after, emit)
		if more && err != nil {
			yield(store.Event{}, prefixError("watch", prefix, err))
		}
	}
}

// watch returns an error, or nil once emit has returned false.
func (s *Store) watch(ctx context.Context, prefix string, after store.Revision, emit func(store.Event) bool) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return err
	}
	if after == 0 {
		more := true
		now, err := s.each(ctx, prefix, "", func(e store.Entry) bool {
			more = emit(store.Event{Op: store.OpPut, Entry: e})
			return more
		})
		if err != nil || !more || !emit(store.Event{Op: store.OpSynced, Entry: store.Entry{Revision: now}}) {
			return err
		}
		after = now
	}
	return s.log.Follow(ctx, prefix, after, func(change *changes.Change) bool { return emit(change.Event()) })
}
