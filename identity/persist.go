package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/store"
)

// keyPrefix is where a store holds registered keys, one entry an agent: the raw public key.
const keyPrefix = "identity"

// Save writes every registered agent to s, one entry an agent. What s holds already stays: a registry
// only ever adds.
func (r *Registry) Save(ctx context.Context, s store.Store) error {
	for id, key := range r.All() {
		_, err := s.Put(ctx, store.Key(keyPrefix, id.String()), key.Public, 0)
		if err != nil && !errors.Is(err, store.ErrConflict) { // a conflict: it is there
			return fmt.Errorf("save agent %s: %w", id, err)
		}
	}
	return nil
}

// Load registers every agent that s holds, by the checks of [Registry.Register]: a store can withhold
// an agent but not forge one. Entries that fail are left out, the others are registered, and the
// returned error joins one error for each that failed.
func (r *Registry) Load(ctx context.Context, s store.Store) error {
	var refused []error
	for entry, err := range s.List(ctx, keyPrefix+"/") {
		if err != nil {
			return errors.Join(append(refused, fmt.Errorf("load agents: %w", err))...)
		}
		if err := r.loadEntry(entry); err != nil {
			refused = append(refused, fmt.Errorf("load agent from %q: %w", entry.Key, err))
		}
	}
	return errors.Join(refused...)
}

func (r *Registry) loadEntry(entry store.Entry) error {
	id, err := ParseID(entry.Key[len(keyPrefix)+1:])
	if err != nil {
		return err
	}
	return r.Register(id, entry.Value)
}

// Forget removes an agent from the registry and from s.
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
