package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// health is what keeps an attached manager from doing its work.
type health struct {
	mu        sync.Mutex
	following error // why the store is not followed
	expiring  error // why what is due is not done
	since     time.Time
	failures  uint64 // to follow the store
}

// Healthy returns nil if nobody is attached, or the manager follows the store and does what is due.
// Otherwise it returns why it does not; it goes on trying. What the manager shows may be old then, while
// all that it acknowledges is in the store.
func (m *Manager) Healthy() error {
	h := &m.health
	h.mu.Lock()
	defer h.mu.Unlock()
	err := errors.Join(h.following, h.expiring)
	if err == nil {
		return nil
	}
	return fmt.Errorf("tasks are not up to date since %s: %w", h.since.UTC().Format(time.RFC3339), err)
}

// set notes an error, or that there is none, in one of the fields above.
func (h *health) set(field *error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.following == nil && h.expiring == nil {
		h.since = time.Now()
	}
	*field = err
	if field == &h.following && err != nil {
		h.failures++
	}
}

// steady is how long a watch has to last after one that has failed to count as one that works.
const steady = time.Second

// confirm waits whether the store is followed in spite of a failure, which shows in nothing but that no
// other one comes, and notes it.
func (m *Manager) confirm(ctx context.Context) {
	h := &m.health
	h.mu.Lock()
	failures := h.failures
	h.mu.Unlock()
	if sleep.For(ctx, steady) != nil {
		return
	}
	if _, err := m.store.Get(ctx, keyPrefix+"x"); err != nil && !errors.Is(err, store.ErrNotFound) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures == failures {
		h.following = nil
	}
}
