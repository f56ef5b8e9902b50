package postgres

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// record is a change as the log has it.
type record struct {
	key      string
	value    []byte // nil: a deletion
	revision store.Revision
}

// event returns a copy that its receiver may change.
func (r *record) event() store.Event {
	if r.value == nil {
		return store.Event{Op: store.OpDelete, Entry: store.Entry{Key: r.key, Revision: r.revision}}
	}
	value := append(make([]byte, 0, len(r.value)), r.value...)
	return store.Event{Op: store.OpPut, Entry: store.Entry{Key: r.key, Value: value, Revision: r.revision}}
}

// waiter is a watcher. What lies between its position and the end of the tail while it waits is of no concern to it.
type waiter struct {
	prefix string
	seen   store.Revision // every change up to here was handed out or is of no concern
	woken  chan struct{}  // holds one
}

// Watch implements [store.Store]. While the server does not answer, the sequence blocks and goes on later; only its
// start is subject to Config.Patience.
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
	w := &waiter{prefix: prefix, seen: after, woken: make(chan struct{}, 1)}
	return s.follow(ctx, w, emit)
}

// follow hands out the changes after w.seen as they come.
func (s *Store) follow(ctx context.Context, w *waiter, emit func(store.Event) bool) error {
	s.tail.join()
	defer s.tail.part()
	for ctx.Err() == nil {
		page, err := s.next(ctx, w)
		if err != nil {
			return err
		}
		for i := range page {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !emit(page[i].event()) {
				return nil
			}
		}
		if len(page) > 0 {
			continue
		}
		if err := s.tail.wait(ctx, w); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// next returns changes after w.seen and moves it past them: from the tail if it goes back that far, else from the log.
// None means that there are none, or none of concern, up to a revision that w.seen has reached.
func (s *Store) next(ctx context.Context, w *waiter) ([]record, error) {
	if err := s.closed(); err != nil {
		return nil, err
	}
	for {
		if page, there := s.tail.read(w); there {
			return page, nil
		}
		before := w.seen
		page, err := s.readLog(ctx, w)
		if err != nil || len(page) > 0 || w.seen == before {
			return page, err
		}
	}
}

// readLog reads a page of the log for one watcher. It waits for a lost server as long as it takes.
func (s *Store) readLog(ctx context.Context, w *waiter) ([]record, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(store.ErrClosed) })()
	var page page
	err := s.retry(ctx, func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, s.config.Patience)
		defer cancel()
		var err error
		page, err = s.readPage(try, s.pool, w.seen, w.prefix)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w.seen < page.compacted || w.seen > page.current {
		return nil, store.ErrCompacted
	}
	w.seen = page.end
	return page.records, nil
}

// page is a part of the log.
type page struct {
	records   []record
	end       store.Revision // every change up to here is in this page or an earlier one
	compacted store.Revision // changes up to here may be gone
	current   store.Revision // the last change that there is
}

type pager interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readPage reads changes after a revision from the log, as many as fit.
func (s *Store) readPage(ctx context.Context, from pager, after store.Revision, prefix string) (page, error) {
	sql, args := s.sql.changes, []any{int64(min(after, maxRevision)), pageLength, pageBytes}
	if prefix != "" {
		sql, args = s.sql.changesBelow, append(args, prefix, afterPrefix(prefix))
	}
	rows, err := from.Query(ctx, sql, args...)
	if err != nil {
		return page{}, err
	}
	var p page
	var revision *int64
	var key *string
	var value []byte
	size := 0
	_, err = pgx.ForEachRow(rows, []any{&p.compacted, &p.current, &revision, &key, &value}, func() error {
		if revision != nil {
			p.records = append(p.records, record{*key, value, store.Revision(*revision)})
			size += len(value)
			value = nil
		}
		return nil
	})
	if p.end = p.current; len(p.records) == pageLength || size >= pageBytes {
		p.end = p.records[len(p.records)-1].revision
	}
	return p, err
}
