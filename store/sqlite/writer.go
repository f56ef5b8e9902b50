package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"

	codes "modernc.org/sqlite/lib"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Bounds of a group. The writer takes what waits up to here into one transaction.
const (
	maxGroup      = 1024
	maxGroupBytes = 8 << 20
)

// request is a change that somebody waits for.
type request struct {
	*changes.Change
	replaces store.Revision
	ctx      context.Context
	err      error
	done     chan struct{}
}

// writer is the one that changes the database. Its goroutine alone touches what is below "run".
type writer struct {
	requests chan *request
	closing  chan struct{} // closed: nothing new is taken
	finished chan struct{} // closed: everything is answered
	failed   atomic.Pointer[error]
	logger   *slog.Logger
	log      *changes.Log

	// run
	conn                           *conn
	begin, commit, rollback        *stmt
	create, replace, remove, count *stmt
	present                        *stmt
	last                           store.Revision
	group                          []*request
	expected                       int // callers that are at work: those of the last group and those that waited
	written                        []*changes.Change
}

func newWriter(c *conn, log *changes.Log, last store.Revision, config Config) (*writer, error) {
	w := &writer{
		requests: make(chan *request, config.MaxQueue),
		closing:  make(chan struct{}),
		finished: make(chan struct{}),
		logger:   config.Logger, log: log, conn: c, last: last,
	}
	for sql, into := range map[string]**stmt{
		"BEGIN IMMEDIATE": &w.begin,
		"COMMIT":          &w.commit,
		"ROLLBACK":        &w.rollback,
		"INSERT INTO entries (key, revision, sum, value) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING": &w.create,
		"UPDATE entries SET revision = ?, sum = ?, value = ? WHERE key = ? AND revision = ?":         &w.replace,
		"DELETE FROM entries WHERE key = ? AND revision = ?":                                         &w.remove,
		"SELECT 1 FROM entries WHERE key = ?":                                                        &w.present,
		"UPDATE counter SET revision = ?":                                                            &w.count,
	} {
		var err error
		if *into, err = c.prepare(sql); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// do hands a change to the writer and waits for the outcome.
func (w *writer) do(ctx context.Context, r *request) (store.Revision, error) {
	r.ctx, r.done = ctx, make(chan struct{})
	if err := w.enqueue(ctx, r); err != nil {
		return 0, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-w.finished:
		if !r.isDone() { // it slipped in after the last look at the queue
			return 0, store.ErrClosed
		}
	}
	return r.Revision, r.err
}

func (w *writer) enqueue(ctx context.Context, r *request) error {
	if w.isClosing() {
		return store.ErrClosed
	}
	select {
	case w.requests <- r:
		return nil
	case <-w.closing:
		return store.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *request) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (w *writer) isClosing() bool {
	select {
	case <-w.closing:
		return true
	default:
		return false
	}
}

// stop lets the writer finish what waits, and waits for it.
func (w *writer) stop() {
	close(w.closing)
	<-w.finished
}

func (w *writer) run() {
	defer close(w.finished)
	for {
		select {
		case r := <-w.requests:
			w.gather(r)
			w.write()
		case <-w.closing:
			if len(w.requests) == 0 {
				return
			}
		}
	}
}

// patience is how often the writer gives way to others without a change in return.
const patience = 4

// gather takes what waits. Those whom the last group served are about to come back: it gives way to them
// while they do, so that callers do not split into groups that take turns. It does not sleep, and where nobody
// else has anything to do it goes on at once.
func (w *writer) gather(r *request) {
	clear(w.group)
	w.group = append(w.group[:0], r)
	bytes := w.drain(r.Size())
	for idle := 0; idle < patience && len(w.group) < w.expected; idle++ {
		seen := len(w.group)
		runtime.Gosched()
		if bytes = w.drain(bytes); len(w.group) > seen {
			idle = 0
		}
	}
}

// drain adds to the group what waits, and returns its bytes.
func (w *writer) drain(bytes int64) int64 {
	for len(w.group) < maxGroup && bytes < maxGroupBytes {
		select {
		case r := <-w.requests:
			w.group = append(w.group, r)
			bytes += r.Size()
		default:
			return bytes
		}
	}
	return bytes
}

// write makes the changes of the group durable and answers those who wait for them.
func (w *writer) write() {
	err := w.failure()
	if err == nil {
		err = w.transact(w.group)
	}
	if errors.Is(err, store.ErrFull) && len(w.group) > 1 {
		w.writeOneByOne() // one may be too large, and a deletion makes room
		return
	}
	w.expected = len(w.group) + len(w.requests)
	for _, r := range w.group {
		w.answer(r, err)
	}
}

func (w *writer) writeOneByOne() {
	for i, r := range w.group {
		err := w.failure()
		if err == nil {
			err = w.transact(w.group[i : i+1])
		}
		w.answer(r, err)
	}
}

// answer tells how a change ended; err is that of its transaction.
func (w *writer) answer(r *request, err error) {
	if err != nil {
		r.err = err
	}
	if r.err != nil {
		r.Revision = 0
	}
	close(r.done)
}

// transact makes one transaction of changes. Those that conflict or that nobody wants any more have
// an err of their own afterwards. With an error nothing has changed, or the store has failed.
func (w *writer) transact(group []*request) error {
	if err := w.apply(group); err != nil {
		w.log.Expect(w.last)
		w.rollback.exec() // an error: SQLite has done it
		return w.settle(err)
	}
	w.last += store.Revision(len(w.written))
	w.log.Add(w.written...)
	clear(w.written)
	return nil
}

func (w *writer) apply(group []*request) error {
	w.written = w.written[:0]
	if _, err := w.begin.exec(); err != nil {
		return err
	}
	for _, r := range group {
		if err := w.applyOne(r); err != nil {
			return err
		}
	}
	if len(w.written) == 0 {
		_, err := w.rollback.exec()
		return err
	}
	next := w.last + store.Revision(len(w.written))
	if _, err := w.count.exec(int64(next)); err != nil {
		return err
	}
	w.log.Expect(next)
	_, err := w.commit.exec()
	return err
}

// applyOne makes a change within the transaction. What only concerns this change is left in r.err.
func (w *writer) applyOne(r *request) error {
	r.err = nil
	if r.ctx.Err() != nil {
		r.err = context.Cause(r.ctx)
		return nil
	}
	r.Revision = w.last + store.Revision(len(w.written)) + 1
	changed, err := w.exec(r)
	if err != nil {
		return err
	}
	if changed == 0 {
		r.err, err = w.why(r)
		return err
	}
	w.written = append(w.written, r.Change)
	return nil
}

// exec runs the statement of a change and returns the number of entries that changed: 1, or 0 if
// the entry is at another revision. One beyond what SQLite can count is never reached, and negative here.
func (w *writer) exec(r *request) (int64, error) {
	rev, check := int64(r.Revision), int64(0)
	if !r.Deleted {
		check = sum(r.Key(), r.Revision, r.Value())
	}
	switch {
	case r.Deleted:
		return w.remove.exec(r.Key(), int64(r.replaces))
	case r.replaces == 0:
		return w.create.exec(r.Key(), rev, check, r.Value())
	}
	return w.replace.exec(rev, check, r.Value(), r.Key(), int64(r.replaces))
}

// why tells what stood in the way of a change that changed nothing.
func (w *writer) why(r *request) (conflict, err error) {
	if !r.Deleted {
		return store.ErrConflict, nil
	}
	rows, err := w.present.query(r.Key())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found, err := first(rows)
	if err == nil && found == nil {
		return store.ErrNotFound, nil
	}
	return store.ErrConflict, err
}

// settle decides what an error of a transaction means. When there is no room, or another program has
// the lock, nothing was written. After anything else the disk may have kept the transaction or not.
func (w *writer) settle(err error) error {
	switch code(err) {
	case codes.SQLITE_FULL, codes.SQLITE_BUSY:
		return explained(err)
	}
	err = advice.On(fmt.Errorf("%w: %w", ErrFailed, explained(err)), "see to the disk and the file, then start again: what was acknowledged is there")
	w.failed.Store(&err)
	w.log.Close(err)
	w.logger.Error("the store has failed", "error", err)
	return err
}

// check returns why nothing can be done with the store, nil if it is well.
func (w *writer) check() error {
	if w.isClosing() {
		return store.ErrClosed
	}
	return w.failure()
}

// failure returns why the store has failed, nil if it has not.
func (w *writer) failure() error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// checkpoint moves the log into the database and empties it.
func (c *conn) checkpoint() error {
	_, err := c.value("PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}
