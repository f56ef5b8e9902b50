package natskv

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
)

// room accounts for what the bucket takes on disk, as far as this store knows.
type room struct {
	limit int64 // beyond which nothing is put; 0 means none

	mu    sync.Mutex
	used  int64     // when the server was asked
	since int64     // what this store has written since then
	asked time.Time // when

	asking   chan struct{} // holds a token while somebody asks
	squeezed time.Time     // guarded by asking
}

// roomFor leaves an eighth of a bucket to deletions.
func roomFor(maxBytes int64) int64 {
	if maxBytes <= 0 {
		return 0
	}
	return maxBytes - maxBytes/8
}

// messageRoom is about what a message takes besides key and value.
const messageRoom = 192

// fresh is how long an answer of the server is good for once half of the room is taken: others write too.
const fresh = time.Second

// take accounts for a message and reports whether the server has to be asked before it is written.
func (r *room) take(size int) (ask bool) {
	if r.limit == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since += int64(size) + messageRoom
	return r.stale()
}

func (r *room) stale() bool {
	taken := r.used + r.since
	return r.since > r.limit/64 || taken > r.limit/2 && time.Since(r.asked) > fresh || taken >= r.limit
}

func (r *room) isStale() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stale()
}

func (r *room) set(used uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used, r.since, r.asked = int64(used), 0, time.Now()
}

// begin waits until nobody else asks the server or makes room; end has to follow.
func (r *room) begin(ctx context.Context) error {
	select {
	case r.asking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *room) end() { <-r.asking }

func (r *room) isTight() (used int64, tight bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used + r.since, r.limit > 0 && r.used+r.since >= r.limit
}

// checkRoom returns store.ErrFull if the bucket has no room for a Put.
func (s *Store) checkRoom(ctx context.Context, size int) error {
	if !s.room.take(size) {
		return nil
	}
	if err := s.room.begin(ctx); err != nil {
		return err
	}
	defer s.room.end()
	if !s.room.isStale() {
		return nil // somebody else has asked
	}
	if err := s.measure(ctx); err != nil {
		return err
	}
	if _, tight := s.room.isTight(); tight {
		if err := s.squeeze(ctx); err != nil {
			return err
		}
	}
	if used, tight := s.room.isTight(); tight {
		return fmt.Errorf("%w: it takes %d bytes on disk, of the %d allowed, history included", store.ErrFull, used, s.room.limit)
	}
	return nil
}

func (s *Store) measure(ctx context.Context) error {
	info, err := s.state(ctx)
	if err == nil {
		s.room.set(info.State.Bytes)
	}
	return err
}

// squeezePause is the time until the next attempt to make room after one that has made little.
const squeezePause = 5 * time.Second

// squeeze makes room by giving up history: of each key only the last message stays. Watchers that
// miss what is gone get store.ErrCompacted. It wants begin called.
func (s *Store) squeeze(ctx context.Context) error {
	if time.Since(s.room.squeezed) < squeezePause {
		return nil
	}
	var info *jetstream.StreamInfo
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		info, err = s.stream.Info(ctx, jetstream.WithSubjectFilter(s.config.all()))
		return err
	})
	if err != nil {
		return err
	}
	s.log.Warn("natskv: the bucket is full; its history is given up", "bytes", info.State.Bytes, "limit", s.room.limit)
	began := time.Now()
	for subject, messages := range info.State.Subjects {
		if messages < 2 {
			continue
		}
		if time.Since(began) > s.config.Patience {
			break // the next Put goes on
		}
		if err := s.purgeSubject(ctx, subject, jetstream.WithPurgeKeep(1)); err != nil {
			return err
		}
	}
	before, _ := s.room.isTight()
	if err := s.measure(ctx); err != nil {
		return err
	}
	if after, _ := s.room.isTight(); before-after < s.room.limit/16 {
		s.room.squeezed = time.Now()
	}
	return nil
}

func (s *Store) squeezeNow(ctx context.Context) error {
	if err := s.room.begin(ctx); err != nil {
		return err
	}
	defer s.room.end()
	return s.squeeze(ctx)
}

func (s *Store) purgeSubject(ctx context.Context, subject string, which jetstream.StreamPurgeOpt) error {
	return s.persist(ctx, func(ctx context.Context) error {
		return s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject), which)
	})
}
