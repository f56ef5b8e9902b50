package natskv

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// pruner removes the markers of deletions that nobody needs any more, so that keys that are gone leave nothing.
type pruner struct {
	age    time.Duration // of a marker before it goes; longer than any change can be in doubt
	every  time.Duration
	latest atomic.Uint64 // sequence known to the store

	mu      sync.Mutex
	running bool
	markers []marker
	dropped int
}

// marker is the message of a deletion.
type marker struct {
	key      string
	sequence uint64
	noticed  time.Time
}

// Markers are kept for two minutes, and remembered up to a number besides those in the log. The next store
// that starts to watch finds the others.
const (
	markerAge    = 2 * time.Minute
	pruneEvery   = 2 * time.Second
	extraMarkers = 64 << 10
)

// advance tells the pruner how far the stream is.
func (p *pruner) advance(sequence uint64) {
	for {
		known := p.latest.Load()
		if known >= sequence || p.latest.CompareAndSwap(known, sequence) {
			return
		}
	}
}

// removed follows a deletion. In a full bucket the entry has to go at once to make room; its marker stays.
func (s *Store) removed(ctx context.Context, key string, sequence uint64) {
	s.purge.advance(sequence)
	s.keepMarker(marker{key, sequence, time.Now()})
	if _, tight := s.room.isTight(); !tight {
		return
	}
	err := s.purgeSubject(ctx, s.config.subject(key), jetstream.WithPurgeSequence(sequence))
	if err == nil {
		err = s.measure(ctx)
	}
	if err != nil {
		s.log.Warn("natskv: a deletion in a full bucket has not made room", "err", err)
	}
}

// noticed follows each change that the feed brings. Markers from before it began are those of stores that
// are gone, or of others that remove them too, which does no harm.
func (s *Store) noticed(d *change, loading bool) {
	s.purge.advance(d.sequence)
	if d.deleted && d.key != "" && loading {
		s.keepMarker(marker{d.key, d.sequence, time.Now()})
	}
}

func (s *Store) keepMarker(m marker) {
	p := &s.purge
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.markers) >= s.config.MaxLog+extraMarkers {
		p.dropped++
		return
	}
	p.markers = append(p.markers, m)
	if !p.running {
		p.running = true
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.spawn(s.prune)
		}
	}
}

// prune removes markers until the store closes.
func (s *Store) prune(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.purge.every/2 + rand.N(s.purge.every)):
		}
		due := s.purge.due(uint64(s.config.MaxLog))
		for i, m := range due {
			if err := s.pruneMarker(ctx, m); err != nil && ctx.Err() == nil {
				s.log.Warn("natskv: markers of deletions could not be removed", "markers", len(due)-i, "err", err)
				s.purge.putBack(due[i:])
				break
			}
		}
	}
}

func (p *pruner) putBack(markers []marker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.markers = append(p.markers, markers...)
}

// due takes the markers whose time has come.
func (p *pruner) due(maxLog uint64) (due []marker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.markers[:0]
	for _, m := range p.markers {
		if time.Since(m.noticed) >= p.age && m.sequence+maxLog < p.latest.Load() {
			due = append(due, m)
		} else {
			kept = append(kept, m)
		}
	}
	clear(p.markers[len(kept):])
	p.markers = kept
	return due
}

// pruneMarker removes a marker and what it replaced, and nothing that came later: a Put at revision 0 that
// expects the marker fails then, looks, and expects nothing.
func (s *Store) pruneMarker(ctx context.Context, m marker) error {
	return s.purgeSubject(ctx, s.config.subject(m.key), jetstream.WithPurgeSequence(m.sequence+1))
}
