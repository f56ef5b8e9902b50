package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/converge-agents/converge/identity"
)

// Population keeps an [identity.Registry] current; see [Service.Populate].
type Population struct {
	service  *Service
	registry *identity.Registry
	leave    func()
	done     chan struct{}

	registered map[identity.ID]struct{} // by this Population: what others registered stays; under Service.updating

	mu     sync.Mutex
	change chan struct{} // closed, and replaced, when an agent is registered
}

// Populate registers every agent whose descriptor is in force, and then keeps registry current: agents that
// register are added, agents that withdraw, expire or vanish are removed, and key statements are applied as
// they come, those of agents that others have registered included. Agents that were in the registry before are
// left in. It returns when the first pass is done. The store is followed meanwhile; see [Service.Follow].
//
// Without Config.Admit, whoever can write to the store can add an agent of its own; it cannot speak for another.
// Close the Population to end it; it also ends with ctx.
func (s *Service) Populate(ctx context.Context, registry *identity.Registry) (*Population, error) {
	p := &Population{
		service:    s,
		registry:   registry,
		done:       make(chan struct{}),
		registered: map[identity.ID]struct{}{},
		change:     make(chan struct{}),
	}
	f, err := s.join(ctx)
	if err != nil {
		return nil, fmt.Errorf("populate registry: %w", err)
	}
	s.update(func() []change {
		s.populations[p] = struct{}{}
		for _, c := range s.everything() {
			p.update(c)
		}
		return nil
	})
	end := sync.OnceFunc(func() {
		p.stop()
		s.leave(f)
		close(p.done)
	})
	unbind := context.AfterFunc(ctx, end)
	p.leave = func() { unbind(); end() }
	return p, nil
}

// everything returns the state of all agents as changes.
func (s *Service) everything() (changes []change) {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.index.agents {
		changes = append(changes, changeOf(a, s.index.inForce(a, now))...)
	}
	return changes
}

// stop has nothing change the registry from now on.
func (p *Population) stop() {
	p.service.update(func() []change {
		delete(p.service.populations, p)
		return nil
	})
}

// Close stops keeping the registry current, and waits for that. What is registered stays. Closing
// twice is fine.
func (p *Population) Close() {
	p.leave()
	<-p.done
}

// update follows a change of an agent. Its caller holds Service.updating.
func (p *Population) update(c change) {
	if c.inForce {
		p.register(c)
		return
	}
	p.applyKeys(c.id)
	if _, ours := p.registered[c.id]; ours && c.root != nil {
		p.registry.Unregister(c.id)
		delete(p.registered, c.id)
	}
}

func (p *Population) register(c change) {
	_, ours := p.registered[c.id]
	_, err := p.registry.Lookup(c.id)
	wasIn := !errors.Is(err, identity.ErrUnknown)
	if err := p.letIn(c); err != nil {
		p.service.log.Warn("agent was discovered but cannot be registered", "agent", c.id, "error", err)
		return
	}
	if !wasIn {
		p.registered[c.id] = struct{}{}
	}
	if !ours {
		p.announce()
	}
}

// letIn registers an agent, and before anything of it counts, what its root key has said about its keys.
func (p *Population) letIn(c change) error {
	statement := p.service.keys.Statement(c.id)
	if statement == nil {
		return p.registry.Register(c.id, c.root)
	}
	if bytes.Equal(statement, p.registry.Statement(c.id)) {
		return p.registry.Register(c.id, c.root)
	}
	_, err := p.registry.RegisterKeys(statement)
	return err
}

// applyKeys applies what is known of the keys of an agent that the registry knows.
func (p *Population) applyKeys(id identity.ID) {
	statement := p.service.keys.Statement(id)
	if statement == nil || bytes.Equal(statement, p.registry.Statement(id)) {
		return
	}
	if _, err := p.registry.Lookup(id); errors.Is(err, identity.ErrUnknown) && p.registry.Statement(id) == nil {
		return // strangers do not use up the registry
	}
	if _, err := p.registry.Apply(statement); err != nil && !errors.Is(err, identity.ErrRolledBack) {
		p.service.log.Warn("key statement of an agent does not count", "agent", id, "error", err)
	}
}

// announce has those who wait look at the registry.
func (p *Population) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.change)
	p.change = make(chan struct{})
}

func (p *Population) changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.change
}

// Wait waits until the registry knows the agent and a key of it that counts. The error is ctx's cause, or says
// that the Population has ended.
func (p *Population) Wait(ctx context.Context, id identity.ID) error {
	for {
		change := p.changed()
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
