package postgres

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Bounds of a list: what is read before the first entry is handed out, how many lists may be longer than that at the same
// time, and how long the body of one of them may take for an entry. A long list holds up PostgreSQL's cleaning.
const (
	pageLength = 1024
	pageBytes  = 4 << 20
	maxLists   = 16
	maxStall   = 5 * time.Minute
)

// List implements [store.Store]. A list that exceeds 1,024 entries or 4 MiB keeps a connection of its own until its loop ends,
// and is cut off with an error if the loop's body takes more than five minutes for an entry.
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

// each hands out the entries under prefix and behind after as they are at one moment, until emit returns false, and returns
// the revision of that moment.
func (s *Store) each(ctx context.Context, prefix, after string, emit func(store.Entry) bool) (store.Revision, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	begin, err := store.Begin(prefix, after)
	if err != nil {
		return 0, err
	}
	if err := s.closed(); err != nil {
		return 0, err
	}
	l := &listing{s: s, begin: begin, end: afterPrefix(prefix), watch: s.newWatchdog(ctx)}
	defer l.close()
	if err := l.open(); err != nil {
		return 0, err
	}
	return l.revision, l.emit(emit)
}

// listing is a list under way: a transaction that sees one moment, of which a page has been read.
type listing struct {
	s          *Store
	begin, end string // of the keys
	watch      *watchdog

	borrowed *pgxpool.Conn // nil once the list is over or long
	own      *pgx.Conn     // of a long list
	results  pgx.BatchResults
	rows     pgx.Rows
	page     []store.Entry
	whole    bool // the page holds everything
	revision store.Revision
}

// open reads the first page, if it has to in several attempts.
func (l *listing) open() error {
	l.watch.expect(l.s.config.Patience, errPatience)
	err := l.s.retry(l.watch.ctx, l.short)
	if err != nil || l.whole {
		return err
	}
	err = l.s.retry(l.watch.ctx, func(ctx context.Context) error {
		err := l.start(ctx)
		if err != nil {
			l.release()
		}
		return err
	})
	if err == nil && l.whole {
		l.release()
	}
	if err == nil && !l.whole {
		err = l.secede()
	}
	return err
}

// short reads everything with one statement, which needs no transaction, if it fits into a page.
func (l *listing) short(ctx context.Context) error {
	l.page = nil
	rows, err := l.s.pool.Query(ctx, l.s.sql.page, l.begin, l.end, pageLength, pageBytes)
	if err != nil {
		return err
	}
	var key *string
	var value []byte
	var revision *int64
	size := 0
	_, err = pgx.ForEachRow(rows, []any{&l.revision, &key, &value, &revision}, func() error {
		if key != nil {
			l.page = append(l.page, store.Entry{Key: *key, Value: value, Revision: store.Revision(*revision)})
			size += len(value)
			value = nil
		}
		return nil
	})
	l.whole = err == nil && len(l.page) < pageLength && size < pageBytes
	return err
}

// start begins a transaction for what is longer, and reads its first page.
func (l *listing) start(ctx context.Context) (err error) {
	if l.borrowed, err = l.s.pool.Acquire(ctx); err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	batch.Queue(l.s.sql.revision)
	batch.Queue(l.s.sql.list, l.begin, l.end)
	batch.Queue(`COMMIT`)
	l.results = l.borrowed.SendBatch(ctx, &batch)
	if _, err := l.results.Exec(); err != nil {
		return err
	}
	if err := l.results.QueryRow().Scan(&l.revision); err != nil {
		return err
	}
	if l.rows, err = l.results.Query(); err != nil {
		return err
	}
	return l.fill()
}

// fill reads the first page.
func (l *listing) fill() error {
	l.page, l.whole = nil, false
	for size := 0; len(l.page) < pageLength && size < pageBytes; {
		if !l.rows.Next() {
			l.whole = true
			return l.rows.Err()
		}
		e, err := l.scan()
		if err != nil {
			return err
		}
		size += len(e.Key) + len(e.Value)
		l.page = append(l.page, e)
	}
	return nil
}

func (l *listing) scan() (e store.Entry, err error) {
	err = l.rows.Scan(&e.Key, &e.Value, &e.Revision)
	return e, err
}

// secede takes the connection out of the pool, for as long as the loop takes.
func (l *listing) secede() error {
	select {
	case l.s.lists <- struct{}{}:
		l.own, l.borrowed = l.borrowed.Hijack(), nil
		return nil
	case <-l.watch.ctx.Done():
		return gaveUp(l.watch.ctx, fmt.Errorf("%d long lists are under way", maxLists))
	}
}

// emit hands out the page and what follows it.
func (l *listing) emit(emit func(store.Entry) bool) error {
	l.watch.relax()
	for _, e := range l.page {
		if !l.whole {
			l.watch.expect(maxStall, errStalled)
		}
		if l.watch.ctx.Err() != nil {
			return context.Cause(l.watch.ctx)
		}
		if !emit(e) {
			return nil
		}
	}
	if l.whole {
		return nil
	}
	return l.stream(emit)
}

func (l *listing) stream(emit func(store.Entry) bool) error {
	l.page = nil
	for l.expectServer(); l.rows.Next(); l.expectServer() {
		e, err := l.scan()
		if err != nil {
			return err
		}
		if l.watch.expect(maxStall, errStalled); !emit(e) {
			return nil
		}
	}
	if l.watch.ctx.Err() != nil {
		return gaveUp(l.watch.ctx, l.s.health.get())
	}
	return explained(l.rows.Err())
}

func (l *listing) expectServer() { l.watch.expect(l.s.config.Patience, errPatience) }

// release gives the connection back to the pool, which closes it if the transaction has not ended well.
func (l *listing) release() {
	if l.borrowed == nil {
		return
	}
	if l.results != nil {
		l.results.Close()
	}
	l.borrowed.Release()
	l.borrowed, l.results, l.rows = nil, nil, nil
}

// close ends what is under way; with the context over, what nobody reads any more does not arrive.
func (l *listing) close() {
	l.watch.stop()
	l.release()
	if l.own == nil {
		return
	}
	l.results.Close()
	l.own.Close(l.watch.ctx)
	<-l.s.lists
}

// afterPrefix returns the first text, in the order of bytes, that is greater than all with a prefix. Keys are ASCII.
func afterPrefix(prefix string) string {
	if prefix == "" {
		return "\x7f"
	}
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}

// watchdog is a context that ends unless it is told in time that things move.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   func() // ends the context

	mu    sync.Mutex
	cause error
	timer *time.Timer
}

func (s *Store) newWatchdog(ctx context.Context) *watchdog {
	w := &watchdog{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	forget := context.AfterFunc(s.ctx, func() { w.cancel(store.ErrClosed) })
	w.timer = time.AfterFunc(time.Hour, w.bark)
	w.stop = func() { forget(); w.relax(); w.cancel(context.Canceled) }
	return w
}

func (w *watchdog) bark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		w.cancel(w.cause)
	}
}

// expect gives what comes next its time.
func (w *watchdog) expect(within time.Duration, cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cause = cause
	w.timer.Reset(within)
}

// relax takes the limit away.
func (w *watchdog) relax() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cause = nil
	w.timer.Stop()
}
