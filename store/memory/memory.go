// Package memory is a [store.Store] that lives in the process and is gone with it.
//
// Maps find entries, each those of some keys and with a lock of its own, and a B+-tree holds their order. One lock
// that is held for a moment makes of all changes one history. A List and the snapshot of a Watch take the tree
// as it is at no cost; later changes copy the few nodes that they touch and set aside the values that
// they replace. So a slow loop never holds up a writer and never sees half a change, and listing a
// prefix costs what lies under it, whatever else is stored. A change that names the revision of an entry is found by that,
// if it is one of the latest, and otherwise by its key.
//
// Changes go into one bounded log that all watchers read by position. A watcher has no queue of its
// own, so one that stands still costs nothing; when the log has moved past it, it gets
// [store.ErrCompacted]. A watcher that waits is woken only by a change under its prefix.
//
// The store starts no goroutines.
package memory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Config bounds what a store holds. Bytes count keys and values; the bookkeeping of an entry adds
// 190 to 290 bytes to them, and up to 512 KiB in all. The zero Config is a good default.
type Config struct {
	MaxEntries int   // entries; 0 means 4,194,304. Beyond it Put creates nothing and returns store.ErrFull.
	MaxBytes   int64 // bytes of entries; 0 means 1 GiB. A Put that grows them beyond it returns store.ErrFull.

	MaxLog      int   // changes kept for watchers; 0 means 262,144
	MaxLogBytes int64 // bytes of those changes; 0 means 64 MiB. The newest change is always kept.
}

// withDefaults returns c with its zeros replaced, or an error that names the field at fault.
func (c Config) withDefaults() (Config, error) {
	if c.MaxEntries < 0 || c.MaxBytes < 0 || c.MaxLog < 0 || c.MaxLogBytes < 0 {
		return c, fmt.Errorf("memory store: a bound is negative: MaxEntries %d, MaxBytes %d, MaxLog %d, MaxLogBytes %d",
			c.MaxEntries, c.MaxBytes, c.MaxLog, c.MaxLogBytes)
	}
	c.MaxEntries = cmp.Or(c.MaxEntries, 1<<22)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.MaxLog = cmp.Or(c.MaxLog, 1<<18)
	c.MaxLogBytes = cmp.Or(c.MaxLogBytes, 64<<20)
	return c, nil
}

// Store is an in-process [store.Store]. Make one with [New].
type Store struct {
	config Config
	log    *changes.Log
	shards *shards
	latest *latest

	mu        brief.Mutex // for what follows, and what is in slots; who holds it waits for no shard
	_         [56]byte    // see brief.Mutex
	tree      tree        // of all slots
	entries   int
	bytes     int64
	last      store.Revision
	snapshots []*snapshot // that are being read
	closed    atomic.Bool // which may be read without
}

var (
	_ store.Store       = (*Store)(nil)
	_ store.Seeker      = (*Store)(nil)
	_ store.TextWatcher = (*Store)(nil)
)

// New makes an empty store.
func New(config Config) (*Store, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	log := changes.New(config.MaxLog, config.MaxLogBytes, 0)
	return &Store{config: config, log: log, shards: newShards(), latest: new(latest), tree: newTree()}, nil
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	found, err := s.get(ctx, key)
	if err != nil {
		return store.Entry{}, keyError("get", key, err)
	}
	return found.Entry(), nil
}

func (s *Store) get(ctx context.Context, key string) (*item, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	in := s.shards.of(key)
	in.mu.Lock()
	defer in.mu.Unlock()
	if place := in.slots[key]; place != nil && !s.closed.Load() {
		return place.item, nil
	}
	return nil, s.missing(key, store.ErrNotFound)
}

// Put implements [store.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	written, err := s.put(ctx, key, value, rev)
	if err != nil {
		return 0, keyError("put", key, err)
	}
	return written, nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if err := check(ctx, key); err != nil {
		return 0, err
	}
	if err := store.CheckValue(value); err != nil {
		return 0, err
	}
	next := changes.Put(key, value)
	if rev == 0 {
		return s.create(key, next)
	}
	return s.replace(key, next, rev)
}

func (s *Store) create(key string, next *item) (store.Revision, error) {
	number := s.shards.number(key)
	in := &s.shards.all[number]
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.slots[key] != nil {
		return 0, s.unlessClosed(store.ErrConflict)
	}
	if err := store.CheckKey(key); err != nil {
		return 0, err
	}
	place := &slot{key: key, shard: number}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries >= s.config.MaxEntries {
		return 0, fmt.Errorf("%w: it holds %d entries, the most allowed", store.ErrFull, s.entries)
	}
	if err := s.grow(next.Size()); err != nil {
		return 0, err
	}
	s.entries++
	in.slots[key] = place
	s.tree.insert(key, place)
	s.record(place, next)
	return next.Revision, nil
}

func (s *Store) replace(key string, next *item, rev store.Revision) (store.Revision, error) {
	place := s.latest.find(key, rev)
	in := s.shardOf(key, place)
	in.mu.Lock()
	defer in.mu.Unlock()
	if place == nil || place.gone { // by now
		place = in.slots[key]
	}
	if place == nil {
		return 0, s.missing(key, store.ErrConflict)
	}
	if place.revision != rev {
		return 0, s.unlessClosed(store.ErrConflict)
	}
	by := next.Size() - int64(place.size)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.grow(by); err != nil {
		return 0, err
	}
	s.record(place, next)
	return next.Revision, nil
}

// shardOf returns the shard that a key belongs to. Its slot knows that, if there is one.
func (s *Store) shardOf(key string, place *slot) *shard {
	if place != nil {
		return &s.shards.all[place.shard]
	}
	return s.shards.of(key)
}

// missing returns what is wrong with a call whose key was not found: err, unless the key is one that cannot be, or
// the store has let go of its entries.
func (s *Store) missing(key string, err error) error {
	if invalid := store.CheckKey(key); invalid != nil {
		return invalid
	}
	return s.unlessClosed(err)
}

// unlessClosed returns err while the store is open.
func (s *Store) unlessClosed(err error) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	return err
}

// grow accounts for more bytes of entries; fewer are always fine while the store is open.
func (s *Store) grow(by int64) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	if by > 0 && s.bytes+by > s.config.MaxBytes {
		return fmt.Errorf("%w: it holds %d bytes of the %d allowed", store.ErrFull, s.bytes, s.config.MaxBytes)
	}
	s.bytes += by
	return nil
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, key string, rev store.Revision) error {
	if err := s.delete(ctx, key, rev); err != nil {
		return keyError("delete", key, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, key string, rev store.Revision) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	in := s.shards.of(key)
	in.mu.Lock()
	defer in.mu.Unlock()
	place := in.slots[key]
	if place == nil {
		return s.missing(key, store.ErrNotFound)
	}
	if place.revision != rev {
		return s.unlessClosed(store.ErrConflict)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.grow(-int64(place.size)); err != nil {
		return err
	}
	s.entries--
	delete(in.slots, key)
	s.tree.remove(key)
	s.record(place, changes.Delete(key))
	return nil
}

// record makes a change: gives it its revision, puts it in its place, logs it and wakes the watchers
// that it concerns. It wants mu held, and that of the place's shard.
func (s *Store) record(place *slot, change *item) {
	if place.item != nil {
		s.preserve(place)
		s.latest.forget(place)
	}
	s.last++
	change.Revision = s.last
	place.item, place.revision, place.size, place.gone = change, s.last, uint32(change.Size()), change.Deleted
	s.latest.note(place)
	s.log.Add(change)
}

// List implements [store.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements [store.Seeker].
func (s *Store) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return changes.Sequence(
		func(emit func(store.Entry) bool) error {
			_, err := s.each(ctx, prefix, after, func(shown *item) bool { return emit(shown.Entry()) })
			return err
		},
		func(err error) error { return prefixError("list", prefix, err) },
	)
}

// Close implements [store.Store]. A loop over List that is under way still gets its snapshot.
func (s *Store) Close() error {
	s.end()
	s.shards.clear()
	s.latest.clear()
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	s.tree, s.entries = tree{}, 0
	s.log.Close(store.ErrClosed)
}

// check reports whether a call may look for a key, which may turn out to be an invalid one that is not there.
func check(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(key) > store.MaxKey {
		return store.CheckKey(key)
	}
	return nil
}

func keyError(op, key string, err error) error {
	return fmt.Errorf("%s %.80q: %w", op, key, err)
}

func prefixError(op, prefix string, err error) error {
	return fmt.Errorf("%s keys with prefix %.80q: %w", op, prefix, err)
}
