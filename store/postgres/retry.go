package postgres

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
)

// Pauses between attempts grow from the first to the last of these, and are drawn at random up to that.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 2 * time.Second
)

// backoff counts the pauses between attempts. Its zero value is ready.
type backoff struct{ next time.Duration }

// pause waits and tells whether ctx has not ended.
func (b *backoff) pause(ctx context.Context) bool {
	b.next = min(max(2*b.next, firstPause), lastPause)
	return sleep.For(ctx, b.next/2+rand.N(b.next/2)) == nil
}

// retry calls fn, which changes nothing, until it answers with something else than a passing failure.
func (s *Store) retry(ctx context.Context, fn func(context.Context) error) error {
	var pauses backoff
	for {
		err := explained(fn(ctx))
		if err == nil {
			s.health.set(nil)
			return nil
		}
		if ctx.Err() != nil {
			return gaveUp(ctx, s.health.get())
		}
		if !passing(err) {
			return err
		}
		s.health.set(err)
		s.pool.Reset() // what broke one connection may have broken all
		if !pauses.pause(ctx) {
			return gaveUp(ctx, err)
		}
	}
}

// health is the last failure of a connection, nil after a success.
type health struct {
	mu   sync.Mutex
	last error
}

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = err
}

func (h *health) get() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// Healthy asks the server whether it is there now, takes writes and lets the store in, and returns what is wrong. It
// takes two seconds at most, and does not wait for a server to come back.
func (s *Store) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errPatience)
	defer cancel()
	if err := s.closed(); err != nil {
		return err
	}
	var readOnly string
	err := explained(s.pool.QueryRow(ctx, `SELECT current_setting('transaction_read_only')`).Scan(&readOnly))
	if err == nil && readOnly != "off" {
		err = errReadOnly
	}
	if err != nil && ctx.Err() != nil {
		return gaveUp(ctx, s.health.get())
	}
	return err
}
