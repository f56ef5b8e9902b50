package identity

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"

	"github.com/converge-agents/converge/store"
)

// keyPrefix is where a store holds registered keys, one entry an agent: the raw root key.
const keyPrefix = "identity"

// Save writes every agent that is in to s, and every statement, one entry an agent each. What s holds already
// stays: a registry only ever adds agents, and of two statements the store keeps the one that counts. If s
// holds that one, for instance from another process, it is applied to r.
func (r *Registry) Save(ctx context.Context, s store.Store) error {
	r.mu.RLock()
	agents := maps.Clone(r.agents)
	r.mu.RUnlock()
	for id, e := range agents {
		if err := r.save(ctx, s, id, e); err != nil {
			return fmt.Errorf("save agent %s: %w", id, err)
		}
	}
	return nil
}

func (r *Registry) save(ctx context.Context, s store.Store, id ID, e entry) error {
	if e.life != nil { // first, so that nobody finds the agent without it
		if err := r.saveLife(ctx, s, id); err != nil {
			return err
		}
	}
	if !e.in {
		return nil
	}
	_, err := s.Put(ctx, store.Key(keyPrefix, id.String()), e.root, 0)
	if errors.Is(err, store.ErrConflict) { // it is there
		return nil
	}
	return err
}

// Saver saves a registry to a store again and again, and touches only what has come since the last time. It is for
// one goroutine.
type Saver struct {
	registry *Registry
	store    store.Store
	saved    map[ID]savedLife
}

// savedLife is what was saved of an agent's keys.
type savedLife struct {
	raw, other string
	released   bool
}

func (e *entry) savedLife() savedLife {
	if e.life == nil {
		return savedLife{}
	}
	return savedLife{e.life.raw, e.life.other, e.life.released}
}

// NewSaver returns a saver that has saved nothing yet.
func NewSaver(r *Registry, s store.Store) *Saver {
	return &Saver{registry: r, store: s, saved: map[ID]savedLife{}}
}

// Save is [Registry.Save] for the agents that have come, have another statement, or were quarantined or released,
// since the last Save that went well for them. It goes on after an error, and returns the first.
func (s *Saver) Save(ctx context.Context) (first error) {
	s.registry.mu.RLock()
	due := map[ID]entry{}
	for id, e := range s.registry.agents {
		if life, saved := s.saved[id]; !saved || e.savedLife() != life {
			due[id] = e
		}
	}
	s.registry.mu.RUnlock()
	for id, e := range due {
		if err := s.registry.save(ctx, s.store, id, e); err != nil {
			if first == nil {
				first = fmt.Errorf("save agent %s: %w", id, err)
			}
			continue
		}
		s.saved[id] = e.savedLife()
	}
	return first
}

// LoadStatements applies the statements that s holds, as [Registry.Load] does, and lets nobody in.
func (r *Registry) LoadStatements(ctx context.Context, s store.Store) error {
	return r.loadAll(ctx, s, lifePrefix, r.loadLife)
}

// EachSaved calls f with every agent that was saved to s, and its root key. What does not hold together is left
// out. Its error is the store's.
func EachSaved(ctx context.Context, s store.Store, f func(ID, ed25519.PublicKey)) error {
	for e, err := range s.List(ctx, keyPrefix+"/") {
		if err != nil {
			return fmt.Errorf("list saved agents: %w", err)
		}
		id, err := ParseID(e.Key[len(keyPrefix)+1:])
		if err == nil && CheckKey(id, e.Value) == nil {
			f(id, e.Value)
		}
	}
	return nil
}

// Load registers every agent that s holds, by the checks of [Registry.Register], and applies every statement
// that it holds, as [Registry.Apply] does: a store can withhold an agent or a statement but not forge one. Entries
// that fail are left out, the others are taken in, and the returned error joins one error for each that failed.
// That the registry knows better already is no failure.
func (r *Registry) Load(ctx context.Context, s store.Store) error {
	return errors.Join(
		r.LoadStatements(ctx, s), // first, so that no agent is in with an older key
		r.loadAll(ctx, s, keyPrefix, func(id ID, value []byte) error { return r.Register(id, ed25519.PublicKey(value)) }),
	)
}

func (r *Registry) loadAll(ctx context.Context, s store.Store, prefix string, load func(ID, []byte) error) error {
	var refused []error
	for entry, err := range s.List(ctx, prefix+"/") {
		if err != nil {
			return errors.Join(append(refused, fmt.Errorf("load agents: %w", err))...)
		}
		id, err := ParseID(entry.Key[len(prefix)+1:])
		if err == nil {
			err = load(id, entry.Value)
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("load agent from %q: %w", entry.Key, err))
		}
	}
	return errors.Join(refused...)
}

// Forget puts an agent out of the registry and removes it from s. What its root key has said about its keys
// stays in both.
func (r *Registry) Forget(ctx context.Context, s store.Store, id ID) error {
	r.Unregister(id)
	key := store.Key(keyPrefix, id.String())
	entry, err := s.Get(ctx, key)
	if err == nil {
		err = s.Delete(ctx, key, entry.Revision)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("forget agent %s: %w", id, err)
	}
	return nil
}
