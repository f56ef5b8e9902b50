package memory

import (
	"context"
	"slices"
	"strings"

	"github.com/converge-agents/converge/store"
)

// batchLength is the most entries that a list looks up in one turn with the lock.
const batchLength = 1024

// snapshot is the store as it was at a revision: which keys there were, and where they have been
// replaced since, their items.
type snapshot struct {
	tree     tree
	revision store.Revision
	replaced map[*slot]*item // guarded by the store's mu
}

// each hands out the entries under prefix and behind after as they are now, until emit returns false, and returns the
// revision of that moment.
func (s *Store) each(ctx context.Context, prefix, after string, emit func(*item) bool) (store.Revision, error) {
	begin, err := store.Begin(prefix, after)
	if err != nil {
		return 0, err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer s.release(snap)
	places := make([]*slot, 0, 16)
	for key, place := range snap.tree.from(begin) {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if places = append(places, place); len(places) == cap(places) {
			if more, err := s.emit(ctx, snap, places, emit); err != nil || !more {
				return snap.revision, err
			}
			places = make([]*slot, 0, min(4*len(places), batchLength)) // a lock is dear when others want it
		}
	}
	_, err = s.emit(ctx, snap, places, emit)
	return snap.revision, err
}

// emit hands out what a snapshot shows in some places, and tells whether more is wanted.
func (s *Store) emit(ctx context.Context, snap *snapshot, places []*slot, emit func(*item) bool) (bool, error) {
	for _, shown := range s.shown(snap, places) {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if !emit(shown) {
			return false, nil
		}
	}
	return true, nil
}

// shown returns the items that were in some places at the time of a snapshot.
func (s *Store) shown(snap *snapshot, places []*slot) []*item {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := make([]*item, len(places))
	for i, place := range places {
		items[i] = place.item
		if place.revision > snap.revision {
			items[i] = snap.replaced[place]
		}
	}
	return items
}

// snapshot takes one; release has to follow.
func (s *Store) snapshot(ctx context.Context) (*snapshot, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, store.ErrClosed
	}
	snap := &snapshot{tree: s.tree.share(), revision: s.last, replaced: map[*slot]*item{}}
	s.snapshots = append(s.snapshots, snap)
	return snap, nil
}

func (s *Store) release(snap *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots = slices.DeleteFunc(s.snapshots, func(other *snapshot) bool { return other == snap })
}

// preserve keeps the item in a place, which is about to be replaced, for the snapshots that show it. It
// wants mu held.
func (s *Store) preserve(place *slot) {
	for _, snap := range s.snapshots {
		if place.revision <= snap.revision {
			snap.replaced[place] = place.item
		}
	}
}
