package mesh

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/converge-agents/converge/internal/topics"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// subscriptions are what an endpoint has subscribed to, how far its peers know, and what the
// peers have subscribed to. Changes are numbered; a peer acknowledges the last one that is in effect.
type subscriptions struct {
	mu       sync.Mutex
	ours     map[string]message.Pattern
	change   uint64
	links    map[*link]bool // those that have our hello and are told of every change since
	progress chan struct{}  // closed, and made anew, when a peer acknowledges or a link ends

	theirsMu sync.RWMutex // no other lock is taken under it
	theirs   topics.Index[*peer]
}

// attach tells l of the subscriptions, in a hello with that number, and of every change from then on.
func (s *subscriptions) attach(l *link, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links == nil {
		s.links = map[*link]bool{}
	}
	s.links[l] = true
	patterns := slices.Collect(maps.Values(s.ours))
	l.push(hello{link: number, change: s.change, patterns: patterns}.append(nil))
}

// detach forgets a link.
func (s *subscriptions) detach(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
	s.stir()
}

// acknowledged says that all changes up to this one are in effect at the other end of l.
func (s *subscriptions) acknowledged(l *link, change uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.acked = max(l.acked, change)
	s.stir()
}

// stir wakes those who wait for progress; s.mu is held.
func (s *subscriptions) stir() {
	if s.progress != nil {
		close(s.progress)
		s.progress = nil
	}
}

// set adds or removes a pattern, tells the peers, and returns the number of the change; 0 means that
// nothing changed. It returns false at the bound.
func (s *subscriptions) set(p message.Pattern, subscribe bool) (change uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, is := s.ours[p.String()]; is == subscribe {
		return 0, true
	}
	t := typeUnsubscribe
	if subscribe {
		if len(s.ours) >= MaxPatterns {
			return 0, false
		}
		if s.ours == nil {
			s.ours = map[string]message.Pattern{}
		}
		s.ours[p.String()] = p
		t = typeSubscribe
	} else {
		delete(s.ours, p.String())
	}
	s.change++
	for l := range s.links {
		l.push(appendChange(nil, t, s.change, p.String()))
	}
	return s.change, true
}

// patterns returns what the endpoint has subscribed to.
func (s *subscriptions) patterns() []message.Pattern {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.ours))
}

// await waits until every link that was told of a change has acknowledged it, or has ended, or ctx has.
func (s *subscriptions) await(ctx context.Context, change uint64) {
	for {
		s.mu.Lock()
		waiting := false
		for l := range s.links {
			waiting = waiting || l.acked < change
		}
		if s.progress == nil {
			s.progress = make(chan struct{})
		}
		progress := s.progress
		s.mu.Unlock()
		if !waiting {
			return
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return
		}
	}
}

// announced replaces what a peer has subscribed to.
func (s *subscriptions) announced(p *peer, patterns []message.Pattern) {
	s.theirsMu.Lock()
	defer s.theirsMu.Unlock()
	s.theirs.RemoveAll(p)
	for _, pattern := range patterns {
		s.theirs.Add(pattern, p)
	}
}

// audience returns the peers that have subscribed to any of the topics.
func (s *subscriptions) audience(topics []message.Topic) []*peer {
	s.theirsMu.RLock()
	defer s.theirsMu.RUnlock()
	return s.theirs.Match(topics)
}

// heard applies a change that the peer announced on l. It returns false at the bound.
func (p *peer) heard(l *link, subscribe bool, pattern message.Pattern) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l { // its successor's hello says more
		return true
	}
	s := &p.e.subs
	s.theirsMu.Lock()
	defer s.theirsMu.Unlock()
	if !subscribe {
		s.theirs.Remove(pattern, p)
		return true
	}
	if s.theirs.Len(p) >= MaxPatterns && !s.theirs.Has(pattern, p) {
		return false
	}
	s.theirs.Add(pattern, p)
	return true
}

// Subscribe implements [transport.Transport]. It returns when all connected peers have acknowledged
// the subscription, or after 2 s; peers that are slower, or connect later, learn of it in time. An
// agent may have 1,024 subscriptions.
func (e *Endpoint) Subscribe(ctx context.Context, p message.Pattern) error {
	return e.change(ctx, p, true)
}

// Unsubscribe implements [transport.Transport]. It waits like Subscribe.
func (e *Endpoint) Unsubscribe(ctx context.Context, p message.Pattern) error {
	return e.change(ctx, p, false)
}

func (e *Endpoint) change(ctx context.Context, p message.Pattern, subscribe bool) error {
	if e.isClosing() {
		return transport.ErrClosed
	}
	change, ok := e.apply(p, subscribe)
	if !ok {
		return fmt.Errorf("subscribe to %q: an agent may have %d subscriptions", p, MaxPatterns)
	}
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	e.subs.await(settled, change)
	return context.Cause(ctx)
}

// apply makes a change known, here and elsewhere, one at a time.
func (e *Endpoint) apply(p message.Pattern, subscribe bool) (change uint64, ok bool) {
	e.changing.Lock()
	defer e.changing.Unlock()
	if change, ok = e.subs.set(p, subscribe); ok {
		e.n.subscribed(e, p, subscribe)
	}
	return change, ok
}
