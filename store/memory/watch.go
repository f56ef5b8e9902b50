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
		func(emit func(store.Event) bool) error {
			return s.watch(ctx, prefix, after, func(change *item) bool { return emit(change.Event()) }, func(now store.Revision) bool {
				return emit(store.Event{Op: store.OpSynced, Entry: store.Entry{Revision: now}})
			})
		},
		func(err error) error { return prefixError("watch", prefix, err) },
	)
}

// WatchText implements [store.TextWatcher].
func (s *Store) WatchText(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.TextEvent, error] {
	return changes.Sequence(
		func(emit func(store.TextEvent) bool) error {
			return s.watch(ctx, prefix, after, func(change *item) bool { return emit(change.TextEvent()) }, func(now store.Revision) bool {
				return emit(store.TextEvent{Op: store.OpSynced, Revision: now})
			})
		},
		func(err error) error { return prefixError("watch", prefix, err) },
	)
}

// watch hands out changes, and says when those of the snapshot are complete. It returns an error, or nil once either
// function has returned false.
func (s *Store) watch(ctx context.Context, prefix string, after store.Revision, emit func(*item) bool, synced func(store.Revision) bool) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return err
	}
	if after == 0 {
		more := true
		now, err := s.each(ctx, prefix, "", func(shown *item) bool {
			more = emit(shown)
			return more
		})
		if err != nil || !more || !synced(now) {
			return err
		}
		after = now
	}
	return s.log.Follow(ctx, prefix, after, emit)
}
