package message

import (
	"crypto/ed25519"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

const (
	// rootsEach is how many roots are remembered of one sender: those of batches that are under way at
	// the same time.
	rootsEach = 4
	// maxRootSenders bounds the senders whose roots are remembered. At the bound some other sender's
	// are forgotten, which costs it a verification.
	maxRootSenders = 1024
)

// rootCache remembers roots whose signatures were verified, so that one signature is verified once for
// all messages under it. Only those come in, so strangers cannot fill it. It saves work and decides
// nothing: what it says is what verifying again would say.
type rootCache struct {
	mu    sync.Mutex
	known map[identity.ID]*knownRoots
}

// knownRoots are the last roots of one sender.
type knownRoots struct {
	roots []verifiedRoot // up to rootsEach, then a ring
	next  int
}

// verifiedRoot is a signature that a key made over a root, and the way to that root from the leaf that came
// last, by which the next one is the quicker to place.
type verifiedRoot struct {
	key       [ed25519.PublicKeySize]byte
	signature [ed25519.SignatureSize]byte
	branch    cose.Branch
}

// verify reports whether the key of sender signed the root to which proof leads from leaf.
func (c *rootCache) verify(sender identity.ID, key ed25519.PublicKey, proof *cose.Proof, leaf cose.Hash, signature []byte) bool {
	if c.has(sender, key, proof, leaf, signature) {
		return true
	}
	branch := cose.Climb(proof, leaf)
	if len(key) != ed25519.PublicKeySize || !cose.VerifyRoot(key, sender[:], branch.Root(), signature) {
		return false
	}
	c.add(sender, verifiedRoot{[ed25519.PublicKeySize]byte(key), [ed25519.SignatureSize]byte(signature), branch})
	return true
}

// has is verify for signatures that were verified before.
func (c *rootCache) has(sender identity.ID, key ed25519.PublicKey, proof *cose.Proof, leaf cose.Hash, signature []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[sender]
	if known == nil {
		return false
	}
	for i := range known.roots {
		r := &known.roots[i]
		if string(signature) == string(r.signature[:]) && string(key) == string(r.key[:]) && r.branch.Join(proof, leaf) {
			return true
		}
	}
	return false
}

func (c *rootCache) add(sender identity.ID, r verifiedRoot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[sender]
	if known == nil {
		c.makeRoom()
		known = &knownRoots{}
		c.known[sender] = known
	}
	if len(known.roots) < rootsEach {
		known.roots = append(known.roots, r)
		return
	}
	known.roots[known.next] = r
	known.next = (known.next + 1) % rootsEach
}

func (c *rootCache) makeRoom() {
	if c.known == nil {
		c.known = map[identity.ID]*knownRoots{}
	}
	for id := range c.known {
		if len(c.known) < maxRootSenders {
			return
		}
		delete(c.known, id)
	}
}
