package task

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/store"
)

// clock tells the time that all who share a store go by. It looks at the computer's clock once, and
// goes on by the monotonic one, so that setting the former changes nothing. Where the store has a clock,
// it keeps an estimate of how far that is off.
type clock struct {
	anchor  time.Time            // when the clock was made
	origin  int64                // the same in nanoseconds since 1970
	elapsed func() time.Duration // since then
	store   store.Clock          // nil if it has none

	offset   atomic.Int64 // of the store's clock, in nanoseconds
	next     atomic.Int64 // the elapsed time at which to look at the store's clock again
	sampling sync.Mutex
}

// How often the store's clock is looked at, and how quickly it has to answer to be believed.
const (
	clockAge      = 5 * time.Minute // by those who use it; the goroutine of an attached manager comes before
	clockRetry    = time.Second
	clockEvery    = time.Minute
	clockPatience = 2 * time.Second
)

// newClock makes a clock of a source of time, which is nil for the computer's.
func newClock(now func() time.Time, s store.Store) *clock {
	c := &clock{}
	c.store, _ = s.(store.Clock)
	c.elapsed = func() time.Duration { return time.Since(c.anchor) } // looks at the monotonic clock alone
	if now != nil {
		c.elapsed = func() time.Duration { return now().Sub(c.anchor) }
	} else {
		now = time.Now // whose values have a monotonic reading
	}
	c.anchor = now()
	if plain := c.anchor.Round(0); plain == c.anchor { // it has no monotonic reading, which UTC would strip
		c.anchor = plain.UTC()
	}
	c.origin = c.anchor.UnixNano()
	return c
}

// now returns the time in nanoseconds since 1970: what is compared and kept has to mean the same to other
// processes.
func (c *clock) now() int64 {
	if c.store != nil && int64(c.elapsed()) >= c.next.Load() {
		c.refresh(context.Background())
	}
	return c.origin + int64(c.elapsed()) + c.offset.Load()
}

// local returns an instant by the clock of this process.
func (c *clock) local(at int64) time.Time {
	return c.anchor.Add(time.Duration(at - c.origin - c.offset.Load()))
}

// refresh looks at the store's clock. While somebody else does, it goes on with the last estimate, and
// waits for the first.
func (c *clock) refresh(ctx context.Context) {
	if c.next.Load() == 0 {
		c.sampling.Lock()
	} else if !c.sampling.TryLock() {
		return
	}
	defer c.sampling.Unlock()
	if int64(c.elapsed()) >= c.next.Load() {
		_ = c.sample(ctx) // it is tried again soon
	}
}

// sample wants sampling held. The store's time is that of the middle of the call. Where the store cannot
// be asked in time, the last estimate stays.
func (c *clock) sample(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	before := c.elapsed()
	at, err := c.store.Now(ctx)
	after := c.elapsed()
	if err == nil && after-before > clockPatience {
		err = fmt.Errorf("the store's clock took %v to answer", after-before)
	}
	if err != nil {
		c.next.Store(int64(after + clockRetry))
		return err
	}
	middle := before + (after-before)/2
	c.offset.Store(at.UnixNano() - c.origin - int64(middle))
	c.next.Store(int64(after + clockAge))
	return nil
}

// keep looks at the store's clock regularly until ctx is done, and calls moved after each time.
func (c *clock) keep(ctx context.Context, moved func()) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.sampling.Lock()
		_ = c.sample(ctx)
		c.sampling.Unlock()
		moved()
	}
}
