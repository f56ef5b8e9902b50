package pool

import (
	"fmt"
	"sync"
	"time"
)

// steady is how long a watch has to last to count as one that works.
const steady = time.Second

// health is what keeps an attached manager from following the store.
type health struct {
	mu       sync.Mutex
	err      error
	since    time.Time
	failures uint64
}

// Healthy returns nil if nobody is attached or the manager follows the store, and otherwise why it does not; it
// goes on trying. Meanwhile it goes by what it has seen last: who has been expelled since is still a member here.
func (m *Manager) Healthy() error {
	h := &m.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		return nil
	}
	return fmt.Errorf("pools are not up to date since %s: %w", h.since.UTC().Format(time.RFC3339), h.err)
}

func (h *health) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.since = time.Now()
	}
	h.err = err
	h.failures++
}

// confirmSoon has the store count as followed once nothing has gone wrong for a while, until stop is called.
func (h *health) confirmSoon() (stop func() bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	failures := h.failures
	return time.AfterFunc(steady, func() { h.confirm(failures) }).Stop
}

func (h *health) confirm(failures uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures == failures {
		h.err = nil
	}
}

// forget is for a manager that nobody is attached to.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = nil
}
