package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/store"
)

// closeGrace is how long Close waits for the answer to what was sent.
const closeGrace = 2 * time.Second

// writer puts what is queued into transactions, one after the other.
type writer struct {
	s     *Store
	queue *queue

	ctx    context.Context // ends some time after Close
	cancel context.CancelCauseFunc

	session *session // nil: none that is known to work
	doubt   *doubt   // nil: every batch's outcome is known

	written int64         // changes and bytes since the log was last pruned
	bytes   int64         //
	due     chan struct{} // holds one: prune the log
}

// doubt is a batch of which it is not known whether it happened.
type doubt struct {
	session int64
	attempt *attempt
}

func newWriter(s *Store) *writer {
	w := &writer{s: s, queue: newQueue(), due: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	return w
}

// stop refuses further changes and bounds the time for those under way, until the timer is stopped.
func (w *writer) stop() *time.Timer {
	w.queue.close()
	return time.AfterFunc(closeGrace, func() { w.cancel(store.ErrClosed) })
}

func (w *writer) run() {
	defer w.cancel(store.ErrClosed)
	defer w.leave()
	for {
		select {
		case <-w.queue.wake:
		case <-w.s.ctx.Done():
			return
		}
		for batch := w.queue.take(); len(batch) > 0; batch = w.queue.take() {
			size := len(batch)
			if w.commit(batch); size > 1 {
				w.queue.gather()
			}
		}
	}
}

// leave ends the session in good order.
func (w *writer) leave() {
	if w.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, closeGrace/2)
	defer cancel()
	w.session.conn.Exec(ctx, w.s.sql.forget, w.session.id)
	w.session.conn.Close(ctx)
}

// commit returns when each change has its answer or nobody waits for it.
func (w *writer) commit(changes []*change) {
	var pauses backoff
	for {
		rest, err := w.try(changes)
		if changes = w.queue.stay(rest); len(changes) == 0 {
			w.doubt = nil // nobody asks any more
			return
		}
		if err == nil {
			continue // some have to be tried again, now that it is known what happened
		}
		if stop := w.stopped(); stop != nil {
			err = stop
		} else if passing(err) && pauses.pause(w.ctx) {
			continue
		}
		w.fail(changes, err)
		return
	}
}

// stopped returns ErrClosed once Close waits no longer.
func (w *writer) stopped() error {
	if w.ctx.Err() != nil || w.s.ctx.Err() != nil && w.session == nil && w.doubt == nil {
		return store.ErrClosed
	}
	return nil
}

// fail answers with an error, which says so if changes may have happened.
func (w *writer) fail(changes []*change, err error) {
	if w.doubt != nil {
		err = doubtful(err)
		w.doubt = nil
	}
	for _, c := range changes {
		c.settle(0, err)
	}
}

// try makes one attempt, and returns the changes that have no answer yet.
func (w *writer) try(changes []*change) ([]*change, error) {
	ctx, cancel := context.WithTimeoutCause(w.ctx, w.s.config.Patience, errPatience)
	defer cancel()
	if w.session == nil {
		if err := w.open(ctx); err != nil {
			return changes, w.lost(err)
		}
	}
	if w.doubt != nil {
		return w.resolve(ctx, changes)
	}
	a := newAttempt(changes)
	outcomes, err := w.s.apply(ctx, w.session, a)
	if err == nil {
		a.settle(outcomes)
		w.count(a)
		w.found()
		return nil, nil
	}
	return changes, w.failed(a, err)
}

// failed remembers what is not known after an error.
func (w *writer) failed(a *attempt, err error) error {
	if !decided(err) {
		w.doubt = &doubt{w.session.id, a}
	}
	if codeOf(err) == sessionGone || w.session.conn.IsClosed() || !decided(err) {
		w.drop()
	}
	if codeOf(err) == sessionGone {
		return errSession
	}
	return w.lost(err)
}

const sessionGone = "CV001" // SQLSTATE of the function apply

var errSession = errors.New("the session of the writer was removed")

func (w *writer) drop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // say no goodbye
	w.session.conn.Close(ctx)
	w.session = nil
}

// open makes a session.
func (w *writer) open(ctx context.Context) error {
	conn, err := w.s.connect(ctx)
	if err != nil {
		return err
	}
	in := &session{id: newID(), conn: conn}
	if _, err := conn.Exec(ctx, w.s.sql.open, in.id); err != nil {
		conn.Close(ctx)
		return err
	}
	w.session = in
	return nil
}

func newID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) >> 1)
}

// resolve finds out whether the batch in doubt has happened. From then on its session can do nothing, should it still
// be at work. Those who won have their answer; the others, which changed nothing, are returned.
func (w *writer) resolve(ctx context.Context, changes []*change) ([]*change, error) {
	var batch, base int64
	var won []int32
	err := w.session.conn.QueryRow(ctx, w.s.sql.fence, w.doubt.session).Scan(&batch, &base, &won)
	if errors.Is(err, pgx.ErrNoRows) {
		w.fail(changes, errSession)
		return nil, nil
	}
	if err != nil {
		if w.session.conn.IsClosed() || !decided(err) {
			w.drop()
		}
		return changes, w.lost(err)
	}
	settled, old := w.doubt.attempt, w.doubt.session
	w.doubt = nil
	w.session.conn.Exec(ctx, w.s.sql.forget, old) // or it is swept later
	w.found()
	if batch != settled.number {
		return changes, nil
	}
	return settled.settleWinners(base, won), nil
}

// lost notes a failure and returns it in words for callers.
func (w *writer) lost(err error) error {
	err = explained(err)
	if w.s.health.get() == nil {
		w.s.log.Warn("postgres store: writing fails", "schema", w.s.config.Schema, "error", err)
	}
	w.s.health.set(err)
	return err
}

func (w *writer) found() {
	if w.s.health.get() != nil {
		w.s.log.Info("postgres store: writing works again", "schema", w.s.config.Schema)
	}
	w.s.health.set(nil)
}
