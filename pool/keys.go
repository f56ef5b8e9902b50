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

// author is whose word a record is.
type author struct {
	id        identity.ID
	root      ed25519.PublicKey // that the ID is the hash of
	epoch     uint64            // of the key that signed; 0 is that of the root key
	statement []byte            // of the root key, about the key of an epoch that is not 0
}

// authorOf returns who signs.
func authorOf(signer *identity.Identity) (author, error) {
	a := author{id: signer.ID(), root: signer.PublicKey(), epoch: signer.Epoch()}
	if a.epoch == 0 {
		return a, nil
	}
	a.statement = signer.Statement()
	s, err := identity.OpenKeys(a.statement)
	a.root = s.Root
	return a, err
}

// check reports why the author cannot be one.
func (a *author) check() error {
	if len(a.root) != ed25519.PublicKeySize || (a.epoch == 0) != (len(a.statement) == 0) || len(a.statement) > identity.MaxStatement {
		return invalid("whoever signed is not named as it should be")
	}
	return nil
}

// key returns the key that signed: the root key, or the one that it has stated for the epoch.
func (a *author) key() (ed25519.PublicKey, error) {
	if err := identity.CheckKey(a.id, a.root); err != nil || a.epoch == 0 {
		return a.root, err
	}
	s, err := identity.OpenKeys(a.statement)
	switch {
	case err != nil:
		return nil, err
	case s.ID != a.id || s.Epoch != a.epoch:
		return nil, errors.New("the key statement is about another key")
	}
	return s.Operational, nil
}

// verify reports why raw is not a statement by the author under the domain.
type verify func(raw []byte, s cose.Sign1, by author, domain cose.Domain, typ string) error

// verifySignature is the [verify] that remembers nothing.
func verifySignature(_ []byte, s cose.Sign1, by author, domain cose.Domain, typ string) error {
	key, err := by.key()
	if err == nil {
		err = s.VerifyStatement(key, by.id[:], domain, typ)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	return nil
}

// signerOf returns the author of what a signer signs for an agent, which has to be itself.
func signerOf(signer *identity.Identity, id identity.ID) (author, error) {
	if signer.ID() != id {
		return author{}, invalid("the record is to be signed by agent %s, and not by %s", id.Short(), signer.ID().Short())
	}
	return authorOf(signer)
}

// standing reports why nothing of an agent counts that it has signed with this key. Nothing takes the place of the root
// key, which says which others count.
func (m *Manager) standing(a *author) error {
	err := m.recheck(a)
	if err == nil || a.epoch == 0 && errors.Is(err, identity.ErrEpoch) {
		return nil
	}
	return fmt.Errorf("agent %s: %w", a.id.Short(), err)
}

func (m *Manager) recheck(a *author) error {
	if r, ok := m.keys.(rechecker); ok {
		return r.Recheck(a.id, a.epoch)
	}
	known, err := m.keys.Lookup(a.id)
	if errors.Is(err, identity.ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if key, err := a.key(); err != nil || !known.Public.Equal(key) {
		return fmt.Errorf("%w: its key is another one", ErrForged)
	}
	return nil
}
