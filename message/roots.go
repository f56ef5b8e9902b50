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

// signedRoot is a root whose signature has been verified: a key, a tree and a signature that belong
// together.
type signedRoot struct {
	key       [ed25519.PublicKeySize]byte
	root      cose.Root
	signature [ed25519.SignatureSize]byte
}

// rootCache remembers verified roots, so that one signature is verified once for all messages under it.
// Only roots whose signature is valid come in, so strangers cannot fill it.
type rootCache struct {
	mu    sync.Mutex
	known map[identity.ID]*knownRoots
}

type knownRoots struct {
	roots [rootsEach]signedRoot // a ring
	next  int
}

// verify reports whether the key of sender signed the root.
func (c *rootCache) verify(sender identity.ID, key ed25519.PublicKey, root cose.Root, signature []byte) bool {
	r := signedRoot{root: root}
	if copy(r.key[:], key) != len(r.key) || copy(r.signature[:], signature) != len(r.signature) {
		return false
	}
	if c.has(sender, &r) {
		return true
	}
	if !cose.VerifyRoot(key, sender[:], root, signature) {
		return false
	}
	c.add(sender, r)
	return true
}

func (c *rootCache) has(sender identity.ID, r *signedRoot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[sender]
	if known == nil {
		return false
	}
	for i := range known.roots {
		if known.roots[i] == *r {
			return true
		}
	}
	return false
}

func (c *rootCache) add(sender identity.ID, r signedRoot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[sender]
	if known == nil {
		c.makeRoom()
		known = &knownRoots{}
		c.known[sender] = known
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
