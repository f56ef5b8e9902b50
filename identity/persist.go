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

// Load registers every agent that s holds, by the checks of [Registry.Register], and applies every statement
// that it holds, as [Registry.Apply] does: a store can withhold an agent or a statement but not forge one. Entries
// that fail are left out, the others are taken in, and the returned error joins one error for each that failed.
// That the registry knows better already is no failure.
func (r *Registry) Load(ctx context.Context, s store.Store) error {
	return errors.Join(
		r.loadAll(ctx, s, lifePrefix, r.loadLife), // first, so that no agent is in with an older key
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
