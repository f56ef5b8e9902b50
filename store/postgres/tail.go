package postgres

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/store"
)

// Bounds of the tail, besides those of the log itself.
const (
	maxTail      = 8192
	maxTailBytes = 16 << 20
	maxRevision  = math.MaxInt64
)

// tail is the end of the log of changes, read once for all watchers of the store. While nobody watches, nothing is read.
// A watcher whose position lies before the tail reads the log itself until it has caught up.
type tail struct {
	s         *Store
	maxLength int
	maxBytes  int64

	mu       sync.Mutex
	watchers int
	live     bool           // base, head and records say something
	base     store.Revision // records are the changes after base up to head
	head     store.Revision
	records  []record
	bytes    int64
	waiting  map[*waiter]struct{}

	started   chan struct{}      // closed at the first watch
	interrupt context.CancelFunc // ends the wait for a notification
	wanted    bool               // somebody interrupted
	lost      bool               // that the connection is gone was logged
}

func newTail(s *Store) *tail {
	return &tail{s: s, maxLength: min(maxTail, s.config.MaxLog), maxBytes: min(maxTailBytes, s.config.MaxLogBytes),
		waiting: map[*waiter]struct{}{}, started: make(chan struct{}), interrupt: func() {}}
}

// join and part count the watchers.
func (t *tail) join() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.started:
	default:
		close(t.started)
	}
	if t.watchers++; t.watchers == 1 {
		t.wanted = true
		t.interrupt()
	}
}

func (t *tail) part() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watchers--; t.watchers == 0 {
		t.live, t.records, t.bytes = false, nil, 0
	}
}

// read returns the changes of concern after w.seen and moves it to the head, if the tail covers that.
func (t *tail) read(w *waiter) (found []record, there bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.covers(w.seen) {
		return nil, false
	}
	first := len(t.records)
	for first > 0 && t.records[first-1].revision > w.seen {
		first--
	}
	size := 0
	for i := first; i < len(t.records); i++ {
		r := &t.records[i]
		if w.seen = r.revision; strings.HasPrefix(r.key, w.prefix) {
			found = append(found, *r)
			size += len(r.value)
		}
		if len(found) == pageLength || size >= pageBytes {
			return found, true
		}
	}
	w.seen = t.head
	return found, true
}

func (t *tail) covers(seen store.Revision) bool { return t.live && t.base <= seen && seen <= t.head }

// wait returns when there may be changes after w.seen, up to which the watcher knows the log.
func (t *tail) wait(ctx context.Context, w *waiter) error {
	if t.enter(w) {
		defer t.exit(w)
		select {
		case <-w.woken:
		case <-t.s.ctx.Done():
			return store.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// enter has w woken by the next change of concern, unless there may be one already.
func (t *tail) enter(w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live && w.seen < t.head {
		return false
	}
	t.waiting[w] = struct{}{}
	return true
}

func (t *tail) exit(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, w)
	select {
	case <-w.woken: // at the same time as something else
	default:
	}
}

// wake ends a wait. It wants mu held.
func (t *tail) wake(w *waiter) {
	delete(t.waiting, w)
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// position is from where the tail has to be read.
func (t *tail) position() (head store.Revision, live, watched bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head, t.live, t.watchers > 0
}

// restart has the tail begin at a revision. Who waits looks into the log, for what lies between is not in the tail.
func (t *tail) restart(at store.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watchers == 0 {
		return
	}
	t.live, t.base, t.head, t.records, t.bytes = true, at, at, nil, 0
	for w := range t.waiting {
		t.wake(w)
	}
}

// add appends a page, and wakes those whom it concerns. The others move on with the head.
func (t *tail) add(p page) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live {
		return
	}
	for w := range t.waiting {
		t.pass(w, p)
	}
	for _, r := range p.records {
		t.bytes += int64(len(r.value))
	}
	t.records, t.head = append(t.records, p.records...), p.end
	t.trim()
}

func (t *tail) pass(w *waiter, p page) {
	for i := range p.records {
		if r := &p.records[i]; r.revision > w.seen && strings.HasPrefix(r.key, w.prefix) {
			w.seen = r.revision - 1
			t.wake(w)
			return
		}
	}
	w.seen = max(w.seen, p.end)
}

// trim drops what is beyond the bounds; the array behind the slice is replaced when it grows.
func (t *tail) trim() {
	drop := 0
	for len(t.records)-drop > 0 && (len(t.records)-drop > t.maxLength || t.bytes > t.maxBytes) {
		t.bytes -= int64(len(t.records[drop].value))
		t.base = t.records[drop].revision
		t.records[drop] = record{}
		drop++
	}
	t.records = t.records[drop:]
}

// run keeps the tail up to date, over one connection after the other.
func (t *tail) run() {
	select {
	case <-t.started:
	case <-t.s.ctx.Done():
		return
	}
	var pauses backoff
	for {
		err := t.follow(t.s.ctx, &pauses)
		if t.s.ctx.Err() != nil {
			return
		}
		t.note(explained(err))
		if !pauses.pause(t.s.ctx) {
			return
		}
	}
}

// follow reads the log over one connection until that fails.
func (t *tail) follow(ctx context.Context, pauses *backoff) error {
	conn, err := t.s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ended)
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{t.s.sql.channel}.Sanitize()); err != nil {
		return err
	}
	for {
		if err := t.catchUp(ctx, conn); err != nil {
			return err
		}
		*pauses = backoff{}
		t.note(nil)
		if err := t.await(ctx, conn); err != nil {
			return err
		}
	}
}

// ended is a context for goodbyes that do not wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// catchUp reads what there is.
func (t *tail) catchUp(ctx context.Context, conn *pgx.Conn) error {
	for {
		head, live, watched := t.position()
		if !watched {
			return nil
		}
		p, err := t.page(ctx, conn, head, live)
		if err != nil {
			return err
		}
		if !live || head < p.compacted || head > p.current {
			t.restart(p.current)
			continue
		}
		if t.add(p); p.end == p.current {
			return nil
		}
	}
}

func (t *tail) page(ctx context.Context, conn *pgx.Conn, head store.Revision, live bool) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, t.s.config.Patience)
	defer cancel()
	if !live {
		head = maxRevision // only where the log ends
	}
	return t.s.readPage(ctx, conn, head, "")
}

// await returns when there may be changes after the head: at a notification, when somebody begins to watch, or after a
// while, should a notification be lost.
func (t *tail) await(ctx context.Context, conn *pgx.Conn) error {
	wait, cancel := context.WithTimeout(ctx, t.s.config.poll)
	defer cancel()
	t.mu.Lock()
	t.interrupt = cancel
	if t.wanted {
		cancel()
	}
	t.mu.Unlock()
	defer t.awaited()
	for {
		n, err := conn.WaitForNotification(wait)
		if err != nil {
			return t.waited(ctx, wait, conn, err)
		}
		head, live, _ := t.position()
		if last, err := strconv.ParseUint(n.Payload, 10, 64); err != nil || !live || store.Revision(last) > head {
			return nil
		}
	}
}

// waited tells an interruption from a failure.
func (t *tail) waited(ctx, wait context.Context, conn *pgx.Conn, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wait.Err() != nil && !conn.IsClosed() {
		return nil
	}
	return err
}

func (t *tail) awaited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interrupt, t.wanted = func() {}, false
}

// note logs that the connection is lost, and that it is back.
func (t *tail) note(err error) {
	t.s.health.set(err)
	if t.lost == (err != nil) {
		return
	}
	if t.lost = err != nil; t.lost {
		t.s.log.Warn("postgres store: watching is interrupted", "schema", t.s.config.Schema, "error", err)
	} else {
		t.s.log.Info("postgres store: watching goes on", "schema", t.s.config.Schema)
	}
}
