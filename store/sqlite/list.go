package sqlite

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Bounds of what a loop reads ahead: it reads until it has as many entries or bytes.
const (
	pageLength = 256
	pageBytes  = 1 << 20
)

// List implements [store.Store]. A loop that needs more than 256 entries or 1 MiB holds its moment in
// the database while it runs; until it ends, the log of the database grows with what is written.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements [store.Seeker]; what is said of List holds for it.
func (s *Store) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return changes.Sequence(
		func(emit func(store.Entry) bool) error {
			_, err := s.each(ctx, prefix, after, emit)
			return err
		},
		func(err error) error { return prefixError("list", prefix, err) },
	)
}

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
	if err := s.writer.check(); err != nil {
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
	return s.log.Follow(ctx, prefix, after, func(c *changes.Change) bool { return emit(c.Event()) })
}

// each hands out the entries under prefix and behind after as they are at one moment, until emit returns false, and
// returns the revision of that moment.
func (s *Store) each(ctx context.Context, prefix, after string, emit func(store.Entry) bool) (store.Revision, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	begin, err := store.Begin(prefix, after)
	if err != nil {
		return 0, err
	}
	l := &loop{store: s, page: make([]store.Entry, 0, 16)}
	defer l.end()
	if err := l.start(ctx, begin, prefix); err != nil {
		return 0, err
	}
	for {
		for _, e := range l.page {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			if !emit(e) {
				return l.now, nil
			}
		}
		if l.reader == nil {
			return l.now, nil
		}
		if err := l.next(); err != nil {
			return 0, err
		}
	}
}

// loop is a List under way.
type loop struct {
	store  *Store
	now    store.Revision
	page   []store.Entry
	reader *reader // nil once everything is read
}

// start takes a moment and reads the first page.
func (l *loop) start(ctx context.Context, begin, prefix string) error {
	r, err := l.store.reader(ctx)
	if err != nil {
		return err
	}
	l.reader = r
	if l.now, err = r.start(begin, prefix); err != nil {
		return err
	}
	if err := l.next(); err != nil || l.reader == nil {
		return err
	}
	return l.store.readers.prolong(r)
}

// next reads a page, and gives the connection back when there is nothing after it.
func (l *loop) next() error {
	if err := l.store.writer.check(); err != nil {
		return err
	}
	clear(l.page)
	var err error
	if l.page, err = l.reader.page(l.page[:0]); errors.Is(err, io.EOF) {
		l.end()
		return nil
	}
	return err
}

func (l *loop) end() {
	if l.reader != nil {
		l.store.readers.release(l.reader)
		l.reader = nil
	}
}

// start begins to read what lies under a prefix from begin on, at the moment whose revision it returns. Keys are made
// of ASCII without DEL, so those with the prefix lie between it and itself with DEL.
func (r *reader) start(begin, prefix string) (store.Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return 0, store.ErrClosed
	}
	if _, err := r.begin.exec(); err != nil {
		return 0, explained(err)
	}
	now, err := r.revision()
	if err == nil {
		r.rows, err = r.from.query(begin, prefix+"\x7f")
	}
	if err != nil {
		r.commit.exec()
		return 0, explained(err)
	}
	return now, nil
}

func (r *reader) revision() (store.Revision, error) {
	rows, err := r.last.query()
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	v, err := first(rows)
	now, ok := v.(int64)
	if err == nil && !ok {
		err = damage("the counter of revisions is gone")
	}
	return store.Revision(now), err
}

// page appends entries; with io.EOF they are the last.
func (r *reader) page(page []store.Entry) ([]store.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return page, store.ErrClosed
	}
	for bytes := 0; len(page) < pageLength && bytes < pageBytes; {
		e, err := next(r.rows)
		if err != nil {
			return page, err
		}
		page = append(page, e)
		bytes += len(e.Key) + len(e.Value)
	}
	return page, nil
}
