package proof

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// KeySource returns the keys of agents; an [identity.Registry] is one.
type KeySource interface {
	Lookup(identity.ID) (identity.Key, error)
}

// EpochSource is a [KeySource] of agents that change their keys: an epoch numbers the keys of one agent, and
// the proof of what was signed names it. A source that keeps the keys of earlier epochs lets what was signed
// with them go on verifying.
type EpochSource interface {
	KeySource
	LookupEpoch(of identity.ID, epoch uint64) (identity.Key, error)
}

// Verifier checks proofs. It is safe for concurrent use. It remembers up to 2 × 4,096 signatures over roots
// that it has verified, so that one is verified once for the statements under it, in whatever order they
// come. Only those that verify get in, and what it remembers of them saves work and decides nothing.
//
// It remembers up to 2 × 32,768 keys too, under which it has verified something: see [Verifier.VerifyPast].
type Verifier struct {
	keys     KeySource
	roots    cache[signedRoot, struct{}]
	underWay underWay
	past     cache[agentKey, ed25519.PublicKey] // keys that have verified something
}

// agentKey names a key of an agent.
type agentKey struct {
	agent identity.ID
	epoch uint64
}

// Bounds of each of the two generations of what a verifier remembers.
const (
	maxRoots = 4096
	maxPast  = 32768
)

// NewVerifier returns a verifier that takes the agents' keys from keys.
func NewVerifier(keys KeySource) *Verifier {
	v := &Verifier{keys: keys}
	v.roots.most, v.past.most = maxRoots, maxPast
	return v
}

// Verify reports why proof does not show that an agent, which has to be known, makes a statement. Errors:
// [ErrMissing], [ErrMalformed], [ErrForged], and those of the keys, such as [identity.ErrUnknown].
func (v *Verifier) Verify(by identity.ID, s Statement, proof []byte) error {
	return v.verify(by, s, proof, v.lookup)
}

// VerifyPast is Verify for a statement that was made some time ago. An agent that is no longer known may have
// been when v verified something of it, and one that is may have had another key: that of an earlier epoch, as
// its root key said. Whoever has got hold of such a key can make statements that look old; an agent that is revoked
// has made none.
func (v *Verifier) VerifyPast(by identity.ID, s Statement, proof []byte) error {
	return v.verify(by, s, proof, v.lookupPast)
}

// Remember has VerifyPast take an agent's root key for one that it was known by once.
func (v *Verifier) Remember(agent identity.ID, root ed25519.PublicKey) {
	v.past.add(agentKey{agent, 0}, root)
}

// Knows reports whether an agent is known now.
func (v *Verifier) Knows(agent identity.ID) bool {
	_, err := v.keys.Lookup(agent)
	return err == nil
}

func (v *Verifier) verify(by identity.ID, s Statement, proof []byte, lookup func(agentKey, parts) (ed25519.PublicKey, error)) error {
	p, err := parse(proof)
	if err != nil {
		return err
	}
	of := agentKey{by, p.epoch}
	key, err := lookup(of, p)
	if err != nil {
		return fmt.Errorf("key %d of agent %s: %w", of.epoch, by.Short(), err)
	}
	if err := v.signature(by, key, &s, p); err != nil {
		return err
	}
	v.past.add(of, key)
	return nil
}

// signature reports why a key has not signed a statement, alone or with others.
func (v *Verifier) signature(by identity.ID, key ed25519.PublicKey, s *Statement, p parts) error {
	signed := s.sign1(by)
	if len(p.inclusion) != 0 {
		return v.verifyShared(by, key, p, signed.Leaf(s.Domain))
	}
	if signed.Signature = p.signature; !signed.Verify(key, s.Domain) {
		return ErrForged
	}
	return nil
}

// lookup returns a key that an agent has, or had. Sources that know of no epochs have the root key, which is
// that of epoch 0.
func (v *Verifier) lookup(of agentKey, _ parts) (ed25519.PublicKey, error) {
	if keys, ok := v.keys.(EpochSource); ok {
		key, err := keys.LookupEpoch(of.agent, of.epoch)
		return key.Public, err
	}
	if of.epoch != 0 {
		return nil, identity.ErrUnknown
	}
	key, err := v.keys.Lookup(of.agent)
	return key.Public, err
}

// lookupPast returns a key that lookup does, or has, or that the agent had in its epoch.
func (v *Verifier) lookupPast(of agentKey, p parts) (ed25519.PublicKey, error) {
	key, err := v.lookup(of, p)
	superseded := errors.Is(err, identity.ErrEpoch) || errors.Is(err, identity.ErrNotInForce)
	if !superseded && !errors.Is(err, identity.ErrUnknown) {
		return key, err
	}
	if old, known := v.past.get(of); known {
		return old, nil
	}
	if _, known := v.past.get(agentKey{of.agent, 0}); known || superseded {
		if old := v.formerKey(of, p.statement); old != nil {
			return old, nil
		}
	}
	return key, err
}

// formerKey returns the key that an agent's root key has stated for an epoch, nil if it is not known. For epoch 0 that
// is the root key itself, which any statement names.
func (v *Verifier) formerKey(of agentKey, statement []byte) ed25519.PublicKey {
	if of.epoch == 0 {
		if source, ok := v.keys.(interface{ Statement(identity.ID) []byte }); ok {
			statement = source.Statement(of.agent)
		}
	}
	s, err := identity.OpenKeys(statement)
	switch {
	case err != nil || s.ID != of.agent:
		return nil
	case of.epoch == 0:
		return s.Root
	case s.Epoch != of.epoch:
		return nil
	}
	return s.Operational
}

func (v *Verifier) verifyShared(by identity.ID, key ed25519.PublicKey, p parts, leaf cose.Hash) error {
	inclusion, err := cose.ParseProof(p.inclusion)
	if err != nil {
		return ErrMalformed
	}
	branch := cose.Climb(&inclusion, leaf)
	root := signedRoot{by: by, root: branch.Root(), signature: [ed25519.SignatureSize]byte(p.signature)}
	if copy(root.key[:], key) != len(key) {
		return ErrForged
	}
	if _, known := v.roots.get(root); known || v.underWay.verify(&root, key) {
		v.roots.add(root, struct{}{})
		return nil
	}
	return ErrForged
}

// underWay is the verifications that are under way: those who signed together come together, and one works for
// all. Each caller waits for one, so the callers bound it.
type underWay struct {
	mu    sync.Mutex
	calls map[signedRoot]*call
}

// call is a verification. Once done is closed, ok tells how it went.
type call struct {
	done chan struct{}
	ok   bool
}

// verify reports whether the key has signed the root.
func (u *underWay) verify(root *signedRoot, key ed25519.PublicKey) bool {
	u.mu.Lock()
	c, others := u.calls[*root]
	if !others {
		if u.calls == nil {
			u.calls = map[signedRoot]*call{}
		}
		c = &call{done: make(chan struct{})}
		u.calls[*root] = c
	}
	u.mu.Unlock()
	if others {
		<-c.done
		return c.ok
	}
	c.ok = cose.VerifyRoot(key, root.by[:], root.root, root.signature[:])
	u.mu.Lock()
	delete(u.calls, *root)
	u.mu.Unlock()
	close(c.done)
	return c.ok
}

// signedRoot is a signature that a key made over a root. Messages of a batch arrive one after the other,
// and message.Verifier makes use of that; statements are read from a store in any order and a million at
// once, so their roots are looked up in a table.
type signedRoot struct {
	by        identity.ID
	key       [ed25519.PublicKeySize]byte
	root      cose.Root
	signature [ed25519.SignatureSize]byte
}

// cache remembers the latest of what was added to it. When the young generation is full, it becomes the old
// one, and what was old is forgotten.
type cache[K comparable, V any] struct {
	most int // in a generation

	mu         sync.Mutex
	young, old map[K]V
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, known := c.young[k]; known {
		return v, true
	}
	v, known := c.old[k]
	if known {
		c.enter(k, v)
	}
	return v, known
}

func (c *cache[K, V]) add(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.young[k]; !known {
		c.enter(k, v)
	}
}

// enter puts an entry into the young generation.
func (c *cache[K, V]) enter(k K, v V) {
	if c.young == nil || len(c.young) >= c.most {
		c.young, c.old = map[K]V{}, c.young
	}
	c.young[k] = v
}
