// Package testkit is what the tests of several packages need: agents whose keys are known, clocks that stand, and runs
// that end with their test.
package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Agent returns the agent of a seed: always the same one.
func Agent(seed byte) *identity.Identity {
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		panic(err)
	}
	return id
}

// Clock is a clock that only tests move. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// ClockAt returns a clock that stands at an instant.
func ClockAt(now time.Time) *Clock { return &Clock{now: now} }

// Now returns where the clock stands.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set moves the clock to an instant.
func (c *Clock) Set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// Add moves the clock by d.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run runs r until stop is called, at the latest at the end of the test, which fails if r does.
func Run(t testing.TB, r interface{ Run(context.Context) error }) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// Params returns the params of a tool call; nil for none.
func Params(t testing.TB, values map[string]any) json.RawMessage {
	t.Helper()
	if values == nil {
		return nil
	}
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
