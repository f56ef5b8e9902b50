package discovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/converge-agents/converge/store"
)

// follower keeps the index current with the store while somebody needs it.
type follower struct {
	service *Service
	users   int // under Service.following
	cancel  context.CancelFunc
	done    chan struct{}
	synced  chan struct{} // closed after the first pass
	failed  error         // why there was none; set before done is closed

	mu    sync.Mutex
	timer *time.Timer
	next  time.Time // when the timer fires: no later than the next expiry
	ended bool
}

// Follow has queries answered from memory, which is kept current with the store, until stop is called. It
// returns when the first pass over the store is done; all who follow share it. Stop waits until nothing goes on
// any more, and may be called twice.
func (s *Service) Follow(ctx context.Context) (stop func(), err error) {
	f, err := s.join(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow the discovery store: %w", err)
	}
	return sync.OnceFunc(func() { s.leave(f) }), nil
}

func (s *Service) join(ctx context.Context) (*follower, error) {
	s.following.Lock()
	f := s.current()
	if f == nil {
		f = s.startFollower(ctx)
	}
	f.users++
	s.following.Unlock()
	err := f.wait(ctx)
	if err != nil {
		s.leave(f)
		return nil, err
	}
	return f, nil
}

// wait returns when the first pass is done.
func (f *follower) wait(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	select {
	case <-f.synced:
		return nil
	case <-f.done:
		return f.failed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Service) current() *follower {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.follower
}

func (s *Service) setFollower(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follower = f
}

func (s *Service) startFollower(ctx context.Context) *follower {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &follower{service: s, cancel: cancel, done: make(chan struct{}), synced: make(chan struct{})}
	f.timer = time.AfterFunc(time.Hour, f.expire)
	f.timer.Stop() // until there is an agent
	s.setFollower(f)
	go f.run(ctx)
	return f
}

// leave ends the follower if nobody else needs it, and waits for that.
func (s *Service) leave(f *follower) {
	s.following.Lock()
	defer s.following.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if s.current() == f {
		s.setFollower(nil)
	}
	f.cancel()
	<-f.done
}

// followed reports whether the index is current.
func (s *Service) followed() bool {
	f := s.current()
	return f != nil && isClosed(f.synced)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Pauses between attempts to watch a store that fails.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// run follows the store until ctx ends. The first failure before the first pass is fatal; later ones are
// retried, and the index meanwhile keeps what it has, up to its expiry.
func (f *follower) run(ctx context.Context) {
	defer f.end()
	log := f.service.log
	retry := minRetry
	for {
		synced, err := f.follow(ctx)
		switch {
		case ctx.Err() != nil:
			f.fail(context.Cause(ctx))
			return
		case !isClosed(f.synced):
			f.fail(err)
			return
		case errors.Is(err, store.ErrClosed):
			log.Warn("discovery store was closed; agents are only removed, as they expire")
			<-ctx.Done()
			return
		case synced && errors.Is(err, store.ErrCompacted):
			continue
		}
		if synced {
			retry = minRetry
		}
		log.Warn("cannot watch the discovery store; retrying", "error", err, "in", retry)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

// fail says why there was no first pass. The next one who follows starts anew.
func (f *follower) fail(err error) {
	if isClosed(f.synced) {
		return
	}
	f.failed = err
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	if f.service.follower == f {
		f.service.follower = nil
	}
}

// end has nothing change from now on.
func (f *follower) end() {
	f.mu.Lock()
	f.ended = true
	f.timer.Stop()
	f.mu.Unlock()
	f.service.update(nil) // what the timer has begun is done
	close(f.done)
}

// follow applies one watch of the store from its beginning.
func (f *follower) follow(ctx context.Context) (synced bool, err error) {
	s := f.service
	pass := s.nextPass()
	for event, err := range s.store.Watch(ctx, s.prefix, 0) {
		if err != nil {
			return synced, err
		}
		switch event.Op {
		case store.OpPut:
			s.update(func() []change { return s.take(ctx, event.Entry, pass) })
		case store.OpDelete:
			s.update(func() []change { return s.unlist(event.Entry) })
		case store.OpSynced:
			s.update(func() []change { return s.unlistUnseen(pass) })
			if synced = true; !isClosed(f.synced) {
				close(f.synced)
			}
		}
	}
	return synced, errors.New("the watch ended")
}

func (s *Service) nextPass() int {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.passes++
	return s.passes
}

// update makes a change, tells the populations of it, one change after the other, and has the timer fire in
// time.
func (s *Service) update(do func() []change) {
	s.updating.Lock()
	defer s.updating.Unlock()
	if do == nil {
		return
	}
	for _, c := range do() {
		for p := range s.populations {
			p.update(c)
		}
	}
	if f := s.current(); f != nil {
		f.arm()
	}
}

// expire takes out the agents whose descriptors have run out.
func (f *follower) expire() {
	f.mu.Lock()
	f.next = time.Time{}
	ended := f.ended
	f.mu.Unlock()
	if ended {
		return
	}
	f.service.update(f.service.takeOutExpired)
}

func (s *Service) takeOutExpired() (changes []change) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.index.expire(now) {
		changes = append(changes, changeOf(a, false)...)
	}
	return changes
}

// arm has the timer fire when the next descriptor runs out, unless it fires earlier anyway.
func (f *follower) arm() {
	due, ok := f.service.nextExpiry()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || !ok || !f.next.IsZero() && !due.Before(f.next) {
		return
	}
	f.next = due
	f.timer.Reset(max(due.Sub(f.service.now()), minRetry))
}

func (s *Service) nextExpiry() (time.Time, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.index.queue) == 0 {
		return time.Time{}, false
	}
	return s.index.queue[0].due, true
}
