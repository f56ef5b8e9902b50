package natskv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
		info, err := s.state(ctx)
		if err != nil {
			return nil, err
		}
		if !filled {
			continue
		}
		if err := s.await(ctx, info.State.LastSeq); err != nil {
			return nil, err
		}
		if snap, ok := s.view.take(info.State.LastSeq, gaps); ok {
			return snap, nil
		}
	}
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
	v.waiting = append(v.waiting, w)
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
