package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/store"
)

// health is how the feed is.
type health struct {
	mu    sync.Mutex
	err   error
	since time.Time
}

// failed notes and logs why the feed was interrupted; a log line comes with the first of a row.
func (h *health) failed(ctx context.Context, log *slog.Logger, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil || errors.Is(err, errLost) {
		return
	}
	if h.err == nil {
		h.since = time.Now()
		log.Warn("natskv: the subscription to the bucket was interrupted", "err", err)
	}
	h.err = err
}

func (h *health) well(log *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		log.Info("natskv: the subscription to the bucket goes on", "after", time.Since(h.since).Round(time.Millisecond))
		h.err = nil
	}
}

func (h *health) trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// rarely counts what is logged once a minute only.
type rarely struct {
	mu    sync.Mutex
	since time.Time
	n     int
}

// count returns how many there were since it last did, or 0 while it is too early to say so again.
func (r *rarely) count() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if time.Since(r.since) < time.Minute {
		return 0
	}
	n, r.n, r.since = r.n, 0, time.Now()
	return n
}

// Healthy returns nil if the store is connected and, where somebody lists or watches, follows the bucket. It
// does not ask the server; a call that does, Now for instance, tells more.
func (s *Store) Healthy() error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	err := s.health.trouble()
	switch status := s.conn.Status(); {
	case closed:
		err = store.ErrClosed
	case status != client.CONNECTED:
		err = errors.Join(fmt.Errorf("the connection is %v", status), s.conn.LastError())
	}
	if err != nil {
		return explain(fmt.Errorf("bucket %q: %w", s.config.Bucket, err))
	}
	return nil
}
