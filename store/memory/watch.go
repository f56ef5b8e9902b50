package memory

import (
	"context"
	"iter"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return changes.Sequence(
		func(emit func(store.Event) bool) error { return s.watch(ctx, prefix, after, emit) },
		func(err error) error { return prefixError("watch", prefix, err) },
	)
}

// watch returns an error, or nil once emit has returned false.
func (s *Store) watch(ctx context.Context, prefix string, after store.Revision, emit func(store.Event) bool) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return err
	}
	if after == 0 {
		now, more, err := changes.Snapshot(func(take func(store.Entry) bool) (store.Revision, error) {
			return s.each(ctx, prefix, "", take)
		}, emit)
		if !more {
			return err
		}
		after = now
	}
	return s.log.Follow(ctx, prefix, after, func(change *changes.Change) bool { return emit(change.Event()) })
}
