package converge

import (
	"context"
	"sync"
	"time"
)

// Scheduler says when an agent's next turn is due. Wake-ups that come while a turn runs are gathered
// into one. It holds no goroutine, and while nothing is due it costs no CPU. It is safe for concurrent
// use; one goroutine waits.
type Scheduler struct {
	woken chan struct{}

	mu    sync.Mutex
	timer *time.Timer
	due   time.Time // when the timer fires; zero if it is not set
}

// NewScheduler returns a scheduler with nothing due.
func NewScheduler() *Scheduler { return &Scheduler{woken: make(chan struct{}, 1)} }

// Wake makes a turn due now.
func (s *Scheduler) Wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// WakeAfter makes a turn due in d, or earlier if one was due earlier.
func (s *Scheduler) WakeAfter(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := time.Now().Add(d)
	if !s.due.IsZero() && !due.Before(s.due) {
		return
	}
	s.due = due
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.Wake)
	} else {
		s.timer.Reset(d)
	}
}

// Wait waits until a turn is due. timed says that the pause of a [Scheduler.WakeAfter] is over, so that
// the turn is due even if there is nothing to show. The error is ctx's cause.
func (s *Scheduler) Wait(ctx context.Context) (timed bool, err error) {
	select {
	case <-s.woken:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	timed = !s.due.IsZero() && !time.Now().Before(s.due)
	if timed {
		s.due = time.Time{}
	}
	return timed, nil
}

// Stop forgets the pauses that are under way.
func (s *Scheduler) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = time.Time{}
	if s.timer != nil {
		s.timer.Stop()
	}
}
