package discovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// Population keeps an [identity.Registry] current; see [Service.Populate].
type Population struct {
	service  *Service
	registry *identity.Registry
	cancel   context.CancelFunc
	done     chan struct{}
	synced   chan struct{}

	mu     sync.Mutex
	agents map[identity.ID]*populated
	change chan struct{} // closed, and replaced, when an agent is registered
	timer  *time.Timer
	next   time.Time // when the timer fires: no later than the next expiry
	ended  bool
}

// populated is what a Population knows of an agent.
type populated struct {
	sequence   uint64    // the highest seen; a lower one is a replay
	expires    time.Time // of the descriptor with that sequence
	remembered time.Time // when all that were seen have run out, so that none can be replayed
	registered bool      // by this Population: what others registered stays
	generation int       // the last pass over the store that saw it
}

// Populate registers every agent whose descriptor is in force, and then keeps registry current: agents
// that register are added, agents that withdraw, expire or vanish are removed. Agents that were in the
// registry before are left alone. It returns when the first pass is done.
//
// Whoever can write to the store can add an agent of its own; it cannot speak for another. Close the
// Population to end it; it also ends with ctx.
func (s *Service) Populate(ctx context.Context, registry *identity.Registry) (*Population, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &Population{
		service:  s,
		registry: registry,
		cancel:   cancel,
		done:     make(chan struct{}),
		synced:   make(chan struct{}),
		agents:   map[identity.ID]*populated{},
		change:   make(chan struct{}),
	}
	p.timer = time.AfterFunc(time.Hour, p.expire)
	p.timer.Stop() // until there is an agent
	failed := make(chan error, 1)
	go p.run(ctx, failed)
	select {
	case <-p.synced:
		return p, nil
	case err := <-failed:
		p.Close()
		return nil, fmt.Errorf("populate registry: %w", err)
	case <-ctx.Done():
		p.Close()
		return nil, fmt.Errorf("populate registry: %w", context.Cause(ctx))
	}
}

// Close stops keeping the registry current, and waits for that. What is registered stays. Closing
// twice is fine.
func (p *Population) Close() {
	p.cancel()
	<-p.done
}

// end has nothing change the registry from now on.
func (p *Population) end() {
	p.mu.Lock()
	p.ended = true
	p.timer.Stop()
	p.mu.Unlock()
	close(p.done)
}

// Pauses between attempts to watch a store that fails.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// run follows the store until ctx ends. The first failure before the first pass is fatal; later ones
// are retried, and the registry meanwhile keeps what it has, up to its expiry.
func (p *Population) run(ctx context.Context, failed chan<- error) {
	defer p.end()
	retry := minRetry
	for generation := 1; ; generation++ {
		synced, err := p.follow(ctx, generation)
		switch {
		case ctx.Err() != nil:
			return
		case !p.isSynced():
			failed <- err
			return
		case errors.Is(err, store.ErrClosed):
			p.service.log.Warn("discovery store was closed; agents are only removed from the registry, as they expire")
			<-ctx.Done()
			return
		case synced && errors.Is(err, store.ErrCompacted):
			continue
		}
		if synced {
			retry = minRetry
		}
		p.service.log.Warn("cannot watch the discovery store; retrying", "error", err, "in", retry)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

func (p *Population) isSynced() bool {
	select {
	case <-p.synced:
		return true
	default:
		return false
	}
}

// follow applies one watch of the store from its beginning.
func (p *Population) follow(ctx context.Context, generation int) (synced bool, err error) {
	for event, err := range p.service.store.Watch(ctx, p.service.prefix, 0) {
		if err != nil {
			return synced, err
		}
		switch event.Op {
		case store.OpPut:
			p.put(event.Entry, generation)
		case store.OpDelete:
			p.remove(event.Entry.Key)
		case store.OpSynced:
			p.removeUnseen(generation)
			synced = true
			if !p.isSynced() {
				close(p.synced)
			}
		}
	}
	return synced, errors.New("the watch ended")
}

// put takes in a descriptor. One that does not verify changes nothing, so that whoever overwrites an
// agent's entry with rubbish does not take the agent off the network before its descriptor expires.
func (p *Population) put(entry store.Entry, generation int) {
	d, err := p.service.open(entry)
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.knownUnder(entry.Key)
	if known == nil {
		known = &populated{}
	}
	known.generation = generation
	switch {
	case err != nil:
		p.service.log.Debug("descriptor passed over", "key", entry.Key, "error", err)
	case d.Sequence < known.sequence:
		p.service.log.Warn("the store went back to an older descriptor; ignored", "agent", d.ID)
	case d.CheckTime(p.service.now()) == nil: // or it ran out before it came; an earlier one does by itself
		p.take(d, known)
	}
}

// take follows a descriptor that is in force.
func (p *Population) take(d Descriptor, known *populated) {
	p.agents[d.ID] = known
	known.sequence, known.expires = d.Sequence, d.Expires
	if known.remembered.Before(d.Expires) {
		known.remembered = d.Expires
	}
	if d.Withdrawn {
		p.unregister(d.ID, known)
	} else {
		p.register(d, known)
	}
	p.wakeAt(d.Expires)
}

func (p *Population) register(d Descriptor, known *populated) {
	if _, err := p.registry.Lookup(d.ID); err == nil {
		if !known.registered {
			p.announce()
		}
		return
	}
	if err := p.registry.Register(d.ID, d.Key); err != nil {
		p.service.log.Warn("agent was discovered but cannot be registered", "agent", d.ID, "error", err)
		return
	}
	known.registered = true
	p.announce()
}

// announce has those who wait look at the registry.
func (p *Population) announce() {
	close(p.change)
	p.change = make(chan struct{})
}

// Wait waits until the registry knows the agent. The error is ctx's cause, or says that the Population
// has ended.
func (p *Population) Wait(ctx context.Context, id identity.ID) error {
	for {
		p.mu.Lock()
		change := p.change
		p.mu.Unlock()
		if _, err := p.registry.Lookup(id); err == nil {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.done:
			return fmt.Errorf("wait for agent %s: the registry is no longer populated", id)
		}
	}
}

func (p *Population) unregister(id identity.ID, known *populated) {
	if known.registered {
		p.registry.Unregister(id)
		known.registered = false
	}
}

// agentOf returns the agent whose entry has this key, or the zero ID.
func (p *Population) agentOf(key string) identity.ID {
	text, _ := strings.CutPrefix(key, p.service.prefix)
	id, _ := identity.ParseID(text)
	return id
}

func (p *Population) knownUnder(key string) *populated { return p.agents[p.agentOf(key)] }

// remove takes out an agent whose entry was deleted. Its sequence stays known until its expiry.
func (p *Population) remove(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.knownUnder(key); known != nil {
		p.unregister(p.agentOf(key), known)
	}
}

// removeUnseen takes out the agents that a whole pass over the store did not show.
func (p *Population) removeUnseen(generation int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, known := range p.agents {
		if known.generation < generation {
			p.unregister(id, known)
		}
	}
}

// expire takes out the agents whose descriptors have run out.
func (p *Population) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.next = time.Time{}
	now := p.service.now()
	for id, known := range p.agents {
		due := known.expires
		if !now.Before(due) {
			p.unregister(id, known)
			due = known.remembered
		}
		if now.Before(due) {
			p.wakeAt(due)
		} else {
			delete(p.agents, id)
		}
	}
}

// wakeAt has the timer fire at t, unless it fires earlier anyway.
func (p *Population) wakeAt(t time.Time) {
	if p.next.IsZero() || t.Before(p.next) {
		p.next = t
		p.timer.Reset(max(t.Sub(p.service.now()), minRetry))
	}
}
