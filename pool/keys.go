package pool

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// What there is to know about keys in this package is in this file.

// KeySource returns the keys of agents; an [identity.Registry] is one.
type KeySource interface {
	Lookup(identity.ID) (identity.Key, error)
}

// rechecker is a [KeySource] that knows more than the key that an agent has now. Recheck returns why something
// must not be used any more that was verified under the agent's key of an epoch; the root key's is 0.
type rechecker interface {
	Recheck(id identity.ID, epoch uint64) error
}

// rootEpoch is the epoch of the key that an ID is the hash of.
const rootEpoch = 0

// verify reports why raw is not a statement by the key under the domain.
type verify func(raw []byte, s cose.Sign1, id identity.ID, key ed25519.PublicKey, domain cose.Domain, typ string) error

// verifySignature is the [verify] that remembers nothing. The key has to be the one that the ID is the hash
// of.
func verifySignature(_ []byte, s cose.Sign1, id identity.ID, key ed25519.PublicKey, domain cose.Domain, typ string) error {
	if err := identity.CheckKey(id, key); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	if err := s.VerifyStatement(key, id[:], domain, typ); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	return nil
}

// checkSigner reports why an agent cannot sign a record that names this ID and key.
func checkSigner(signer *identity.Identity, id identity.ID, key ed25519.PublicKey) error {
	if signer.ID() != id || !signer.PublicKey().Equal(key) {
		return invalid("the record is to be signed by agent %s, and not by %s", id.Short(), signer.ID().Short())
	}
	if identity.IDOf(key) != id {
		return invalid("agent %s signs with another key than its root key, which records of pools are signed by", id.Short())
	}
	return nil
}

// standing reports why nothing of an agent counts that it has signed with this key, its root key.
func (m *Manager) standing(id identity.ID, key ed25519.PublicKey) error {
	if r, ok := m.keys.(rechecker); ok {
		err := r.Recheck(id, rootEpoch)
		if err != nil && !errors.Is(err, identity.ErrEpoch) { // the root key says which others count: none takes its place
			return fmt.Errorf("agent %s: %w", id.Short(), err)
		}
		return nil
	}
	known, err := m.keys.Lookup(id)
	if errors.Is(err, identity.ErrUnknown) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("agent %s: %w", id.Short(), err)
	}
	if !known.Public.Equal(key) {
		return fmt.Errorf("agent %s: %w: its key is another one", id.Short(), ErrForged)
	}
	return nil
}
