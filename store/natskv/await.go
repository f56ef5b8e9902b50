package natskv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
)

// stall is after what time without a change a call that waits for some asks whether they are still there.
const stall = 250 * time.Millisecond

// snapshot returns the bucket as it is at a moment after the call. The leader's last sequence at a moment
// after the last gap, reached without another gap, proves that the copy is whole: what was removed
// before it could be read has been replaced by what came until then.
func (s *Store) snapshot(ctx context.Context) (*snapshot, error) {
	s.needFeed()
	for {
		if err := s.await(ctx, 0); err != nil {
			return nil, err
		}
		_, gaps, filled := s.view.where()
		if !filled {
			continue
		}
		last, err := s.lastSequence(ctx)
		if err != nil {
			return nil, err
		}
		if err := s.await(ctx, last); err != nil {
			return nil, err
		}
		if snap, ok := s.view.take(last, gaps); ok {
			return snap, nil
		}
	}
}

// question is one request for the leader's last sequence. Those who come while it is under way wait for the
// next: what they have to see may have been acknowledged after this one was answered.
type question struct {
	answered chan struct{}
	last     uint64
	err      error
}

// questions shares requests among those who ask at the same time.
type questions struct {
	mu     sync.Mutex
	next   *question // not sent yet
	asking bool
}

// lastSequence asks for the leader's last sequence at a moment after the call.
func (s *Store) lastSequence(ctx context.Context) (uint64, error) {
	q, err := s.question()
	if err != nil {
		return 0, err
	}
	select {
	case <-q.answered:
		return q.last, q.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// question returns the next question, and sees to it that it is asked.
func (s *Store) question() (*question, error) {
	s.ask.mu.Lock()
	defer s.ask.mu.Unlock()
	if s.ask.next == nil {
		s.ask.next = &question{answered: make(chan struct{})}
	}
	if s.ask.asking {
		return s.ask.next, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	s.ask.asking = true
	s.spawn(s.askAll)
	return s.ask.next, nil
}

// askAll asks until there is no question left.
func (s *Store) askAll(ctx context.Context) {
	for q := s.ask.take(); q != nil; q = s.ask.take() {
		info, err := s.state(ctx)
		if q.err = err; err == nil {
			q.last = info.State.LastSeq
		}
		close(q.answered)
	}
}

// take takes the next question; without one, asking ends.
func (q *questions) take() *question {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := q.next
	q.next, q.asking = nil, next != nil
	return next
}

// await waits until the view is filled and shows the change of a sequence.
func (s *Store) await(ctx context.Context, sequence uint64) error {
	began, before := time.Now(), uint64(0)
	for {
		w, position := s.view.expect(sequence)
		if w == nil {
			return nil
		}
		if position != before {
			began, before = time.Now(), position
		}
		timer := time.NewTimer(stall)
		select {
		case <-w.woken:
		case <-ctx.Done():
			s.view.forget(w)
			timer.Stop()
			return ended(ctx, s.health.trouble())
		case <-timer.C:
			s.view.forget(w)
			if time.Since(began) > s.config.Patience {
				return fmt.Errorf("%w for %v: %w", ErrUnavailable, s.config.Patience, errors.Join(errIdle, s.health.trouble()))
			}
			s.settle(ctx)
		}
		timer.Stop()
	}
}

// expect returns a waiter for a sequence, or nil if the view is there.
func (v *view) expect(sequence uint64) (*waiter, uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	target := uint64(math.MaxUint64)
	if v.ready {
		target = max(sequence, v.loaded)
	}
	if v.ready && v.position >= target {
		return nil, v.position
	}
	w := newWaiter("")
	w.target = target
	v.waiting.add(w)
	return w, v.position
}

// settle moves the view on if the changes that it waits for are not there any more.
func (s *Store) settle(ctx context.Context) {
	if !s.settling.TryLock() {
		return
	}
	defer s.settling.Unlock()
	position, _, _ := s.view.where()
	s.attempt(ctx, func(ctx context.Context) error { // or the next time
		info, err := s.stream.Info(ctx)
		if err != nil || info.State.LastSeq <= position {
			return err
		}
		last, err := s.stream.GetLastMsgForSubject(ctx, s.config.all())
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && last.Sequence <= position {
			s.view.skip(position, info.State.LastSeq)
		}
		return err
	})
}
