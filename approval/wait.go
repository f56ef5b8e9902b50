package approval

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// errOver says that the time of a request is over.
var errOver = errors.New("the time of the request is over")

// Pauses and bounds for a store that does not answer.
const (
	retryPause  = time.Second
	cleanupTime = 2 * time.Second
)

// await returns nil when the request may have changed, and errOver when its time is over. While the store
// cannot be watched, it is tried again.
func (s *Service) await(ctx context.Context, r *record) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Expires.Sub(now), errOver)
	defer cancel()
	for {
		err := s.watch(ctx, r)
		switch {
		case err == nil, errors.Is(err, store.ErrCompacted):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, store.ErrClosed):
			return err
		}
		s.log.WarnContext(ctx, "cannot watch for a decision; trying again", "id", r.ID, "error", err)
		if err := sleep.For(ctx, retryPause); err != nil {
			return err
		}
	}
}

// watch returns nil when the entry of a request is no longer what it was.
func (s *Service) watch(ctx context.Context, r *record) error {
	present := false
	for event, err := range s.store.Watch(ctx, r.key(), 0) {
		switch {
		case err != nil:
			return err
		case event.Op == store.OpPut && event.Entry.Revision == r.revision:
			present = true
		case event.Op != store.OpSynced || !present:
			return nil
		}
	}
	return context.Cause(ctx)
}

// remove takes a request out of the store, and reports whether it was still as it is here: only one can use an
// allowance up.
func (s *Service) remove(ctx context.Context, r *record) (bool, error) {
	err := s.store.Delete(ctx, r.key(), r.revision)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// use uses an allowance up, and reports whether it did. One that was used already, and that the store has all the
// same, does not count again.
func (s *Service) use(ctx context.Context, r *record) (bool, error) {
	removed, err := s.remove(ctx, r)
	if err != nil || !removed {
		return false, err
	}
	s.remember(r, Allowed)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.used, func(_ string, until time.Time) bool { return now.After(until) })
	if _, again := s.used[r.ID]; again {
		s.log.ErrorContext(ctx, "the store has brought back an approval that was used up", "agent", r.Agent, "tool", r.Tool, "id", r.ID)
		return false, nil
	}
	s.used[r.ID] = now.Add(r.Expires.Sub(r.Asked)) // by then its time is over, whatever clock it goes by
	return true, nil
}

// current returns a request as it is now, nil if it is gone or is another one.
func (s *Service) current(ctx context.Context, r *record) (*record, error) {
	now, err := s.find(ctx, r.key())
	if err != nil || now == nil || !now.proven || now.ID != r.ID {
		return nil, err
	}
	return now, nil
}

// timeOut ends a request whose time is over, unless it was decided at the last moment.
func (s *Service) timeOut(ctx context.Context, c *call, r *record) (Verdict, bool) {
	now, err := s.current(ctx, r)
	if err == nil && now != nil {
		if now.State != Waiting {
			return s.settle(ctx, c, now)
		}
		var removed bool
		if removed, err = s.remove(ctx, now); err == nil && !removed {
			return s.timeOut(ctx, c, r)
		}
	}
	if err != nil {
		s.log.WarnContext(ctx, "cannot remove a request whose time is over; it is swept later", "id", r.ID, "error", err)
	}
	s.remember(r, TimedOut)
	return c.verdict(NobodyDecided, r, fmt.Errorf("%w (%v)", ErrTimedOut, r.Expires.Sub(r.Asked))), true
}

// withdraw removes the request of a call that has ended, whatever was allowed in between.
func (s *Service) withdraw(r *record) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	for {
		now, err := s.current(ctx, r)
		if err != nil || now == nil || now.State == Denied {
			return
		}
		if removed, err := s.remove(ctx, now); err != nil || removed {
			s.remember(r, Withdrawn)
			return
		}
	}
}

// join counts the calls of this process that wait, by their requests.
func (s *Service) join(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[c.key]++
}

// leave takes one away, and reports whether it was the last of its request.
func (s *Service) leave(c *call) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[c.key]--
	if last = s.waiters[c.key] == 0; last {
		delete(s.waiters, c.key)
	}
	return last
}
