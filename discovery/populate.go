package discovery

import (
	"context"
	"errors"
	"fmt"
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
}

// populated is what a Population knows of an agent.
type populated struct {
	sequence   uint64 // the highest seen; a lower one is a replay
	expires    time.Time
	registered bool // by this Population: what others registered stays
	generation int  // the last pass over the store that saw it
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
	p.timer.Stop()
}

// Pauses between attempts to watch a store that fails.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// run follows the store until ctx ends. The first failure before the first pass is fatal; later ones
// are retried, and the registry meanwhile keeps what it has, up to its expiry.
func (p *Population) run(ctx context.Context, failed chan<- error) {
	defer close(p.done)
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
			p.service.log.Warn("discovery store was closed; the registry is no longer kept current")
			return
		case errors.Is(err, store.ErrCompacted):
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
	for event, err := range p.service.store.Watch(ctx, keyPrefix+"/", 0) {
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
	if err != nil {
		p.service.log.Debug("descriptor passed over", "key", entry.Key, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.agents[d.ID]
	if known == nil {
		known = &populated{}
	} else if d.Sequence < known.sequence {
		p.service.log.Warn("the store went back to an older descriptor; ignored", "agent", d.ID)
		return
	}
	if d.CheckTime(p.service.now()) != nil {
		return // expired before it came; an earlier one runs out by itself
	}
	known.sequence, known.expires, known.generation = d.Sequence, d.Expires, generation
	p.agents[d.ID] = known
	if d.Withdrawn {
		p.unregister(d.ID, known)
	} else {
		p.register(d, known)
	}
	p.wakeAt(d.Expires)
}

func (p *Population) register(d Descriptor, known *populated) {
	if _, err := p.registry.Lookup(d.ID); err == nil {
		return
	}
	if err := p.registry.Register(d.ID, d.Key); err != nil {
		p.service.log.Warn("agent was discovered but cannot be registered", "agent", d.ID, "error", err)
		return
	}
	known.registered = true
	close(p.change)
	p.change = make(chan struct{})
}

// Wait waits until the registry knows the agent. The error is ctx's cause.
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
		}
	}
}

func (p *Population) unregister(id identity.ID, known *populated) {
	if known.registered {
		p.registry.Unregister(id)
		known.registered = false
	}
}

// remove takes out an agent whose entry was deleted. Its sequence stays known until its expiry.
func (p *Population) remove(key string) {
	parts, err := store.SplitKey(key)
	if err != nil || len(parts) != 2 {
		return // not an entry of ours
	}
	id, err := identity.ParseID(parts[1])
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.agents[id]; known != nil {
		p.unregister(id, known)
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

// expire forgets the agents whose descriptors have run out.
func (p *Population) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = time.Time{}
	now := p.service.now()
	for id, known := range p.agents {
		if now.Before(known.expires) {
			p.wakeAt(known.expires)
			continue
		}
		p.unregister(id, known)
		delete(p.agents, id)
	}
}

// wakeAt has the timer fire at t, unless it fires earlier anyway.
func (p *Population) wakeAt(t time.Time) {
	if p.next.IsZero() || t.Before(p.next) {
		p.next = t
		p.timer.Reset(max(t.Sub(p.service.now()), minRetry))
	}
}
