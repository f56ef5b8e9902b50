package proof

import (
	"crypto/ed25519"
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
// come. Only those that verify get in, and what it remembers saves work and decides nothing.
type Verifier struct {
	keys  KeySource
	roots rootCache
}

// NewVerifier returns a verifier that takes the agents' keys from keys.
func NewVerifier(keys KeySource) *Verifier {
	return &Verifier{keys: keys, roots: rootCache{most: maxRoots}}
}

// Verify reports why proof does not show that an agent made a statement. Errors: [ErrMissing],
// [ErrMalformed], [ErrForged], and those of the keys, such as [identity.ErrUnknown].
func (v *Verifier) Verify(by identity.ID, s Statement, proof []byte) error {
	p, err := parse(proof)
	if err != nil {
		return err
	}
	key, err := v.key(by, p.epoch)
	if err != nil {
		return err
	}
	signed := s.sign1(by)
	if len(p.inclusion) != 0 {
		return v.verifyShared(by, key, p, signed.Leaf(s.Domain))
	}
	if signed.Signature = p.signature; !signed.Verify(key, s.Domain) {
		return ErrForged
	}
	return nil
}

// key returns the key that an agent has, or had, in an epoch. Sources that know of no epochs have the root
// key, which is that of epoch 0.
func (v *Verifier) key(of identity.ID, epoch uint64) (ed25519.PublicKey, error) {
	key, err := v.lookup(of, epoch)
	if err != nil {
		return nil, fmt.Errorf("key %d of agent %s: %w", epoch, of.Short(), err)
	}
	return key.Public, nil
}

func (v *Verifier) lookup(of identity.ID, epoch uint64) (identity.Key, error) {
	if keys, ok := v.keys.(EpochSource); ok {
		return keys.LookupEpoch(of, epoch)
	}
	if epoch != 0 {
		return identity.Key{}, identity.ErrUnknown
	}
	return v.keys.Lookup(of)
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
	if v.roots.has(&root) {
		return nil
	}
	if !cose.VerifyRoot(key, by[:], root.root, p.signature) {
		return ErrForged
	}
	v.roots.add(&root)
	return nil
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

// maxRoots bounds each of the two generations of a rootCache.
const maxRoots = 4096

// rootCache remembers roots that verified. When the young generation is full, it becomes the old one, and
// what was old is forgotten.
type rootCache struct {
	mu         sync.Mutex
	most       int // maxRoots, other than in tests
	young, old map[signedRoot]struct{}
}

func (c *rootCache) has(r *signedRoot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.young[*r]; known {
		return true
	}
	_, known := c.old[*r]
	if known {
		c.enter(r)
	}
	return known
}

func (c *rootCache) add(r *signedRoot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enter(r)
}

// enter puts a root into the young generation.
func (c *rootCache) enter(r *signedRoot) {
	if c.young == nil || len(c.young) >= c.most {
		c.young, c.old = map[signedRoot]struct{}{}, c.young
	}
	c.young[*r] = struct{}{}
}
