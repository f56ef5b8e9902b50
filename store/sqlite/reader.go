package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/converge-agents/converge/store"
)

// maxIdle is the number of connections for reading that are kept open when nobody needs them.
const maxIdle = 8

// readers lends connections for reading. A short loan ends before anybody else's code runs, so those who
// have to wait for one do get it. A loop that holds a moment longer than that has a long loan, and
// there is an error when there are too many: to wait could be to wait for oneself.
type readers struct {
	path    string
	maxLong int
	short   chan struct{} // holds one for each short loan
	closing chan struct{} // closed under mu

	mu   sync.Mutex
	long int
	idle []*reader
	open map[*reader]struct{} // idle and lent
}

// reader is a connection for reading, lent to one at a time.
type reader struct {
	long bool

	mu   sync.Mutex // held while conn is at work
	conn *conn      // nil once the store is closed
	rows driver.Rows

	one, from, last, begin, commit *stmt
}

func newReaders(config Config) *readers {
	return &readers{
		path:    config.Path,
		maxLong: config.MaxLists,
		short:   make(chan struct{}, max(4, 2*runtime.GOMAXPROCS(0))),
		closing: make(chan struct{}),
		open:    map[*reader]struct{}{},
	}
}

// borrow waits for a short loan.
func (p *readers) borrow(ctx context.Context) (*reader, error) {
	select {
	case p.short <- struct{}{}:
	case <-p.closing:
		return nil, store.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r, err := p.take()
	if err != nil {
		<-p.short
	}
	return r, err
}

// take returns an idle connection or opens one.
func (p *readers) take() (*reader, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed() {
		return nil, store.ErrClosed
	}
	if n := len(p.idle); n > 0 {
		r := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return r, nil
	}
	r, err := newReader(p.path)
	if err != nil {
		return nil, explained(err)
	}
	p.open[r] = struct{}{}
	return r, nil
}

// closed wants mu held.
func (p *readers) closed() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// prolong makes a short loan a long one.
func (p *readers) prolong(r *reader) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.long >= p.maxLong {
		return fmt.Errorf("%d loops over lists and snapshots are under way, the most allowed (MaxLists)", p.long)
	}
	p.long++
	r.long = true
	<-p.short
	return nil
}

// release takes a connection back. One that may be in the midst of something is not lent again.
func (p *readers) release(r *reader) {
	healthy := r.rest()
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.long {
		p.long--
		r.long = false
	} else {
		<-p.short
	}
	if p.closed() {
		return
	}
	if healthy && len(p.idle) < maxIdle {
		p.idle = append(p.idle, r)
		return
	}
	delete(p.open, r)
	r.close()
}

// close closes all connections, also those that are lent: their borrowers learn it at the next step.
func (p *readers) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.closing)
	var errs []error
	for r := range p.open {
		errs = append(errs, r.close())
	}
	p.idle, p.open = nil, nil
	return errors.Join(errs...)
}

func newReader(path string) (*reader, error) {
	c, err := dial(path, readerSettings)
	if err != nil {
		return nil, err
	}
	r := &reader{conn: c}
	for sql, into := range map[string]**stmt{
		"SELECT key, revision, sum, value FROM entries WHERE key = ?":                           &r.one,
		"SELECT key, revision, sum, value FROM entries WHERE key >= ? AND key < ? ORDER BY key": &r.from,
		"SELECT revision FROM counter":                                                          &r.last,
		"BEGIN":                                                                                 &r.begin,
		"COMMIT":                                                                                &r.commit,
	} {
		if *into, err = c.prepare(sql); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return r, nil
}

// rest ends what a borrower has begun, and tells whether that went well.
func (r *reader) rest() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil || r.rows == nil {
		return r.conn != nil
	}
	err := r.rows.Close()
	r.rows = nil
	_, err2 := r.commit.exec()
	return err == nil && err2 == nil
}

func (r *reader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	if r.rows != nil {
		r.rows.Close()
		r.rows = nil
	}
	err := r.conn.close()
	r.conn = nil
	return err
}

func (r *reader) get(key string) (store.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return store.Entry{}, store.ErrClosed
	}
	rows, err := r.one.query(key)
	if err != nil {
		return store.Entry{}, explained(err)
	}
	defer rows.Close()
	e, err := next(rows)
	if errors.Is(err, io.EOF) {
		return store.Entry{}, store.ErrNotFound
	}
	return e, err
}

// next reads an entry, or returns io.EOF.
func next(rows driver.Rows) (store.Entry, error) {
	var row [4]driver.Value
	if err := rows.Next(row[:]); err != nil {
		return store.Entry{}, explained(err)
	}
	key, ok1 := row[0].(string)
	rev, ok2 := row[1].(int64)
	check, ok3 := row[2].(int64)
	value, ok4 := row[3].([]byte)
	if value == nil {
		value = []byte{}
	}
	e := store.Entry{Key: key, Value: value, Revision: store.Revision(rev)}
	if !ok1 || !ok2 || !ok3 || !ok4 || sum(key, e.Revision, value) != check {
		return store.Entry{}, damage("the entry %.80q is not as it was written", key)
	}
	return e, nil
}
