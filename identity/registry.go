package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"

	"filippo.io/edwards25519"
)

// Errors of a [Registry], to be compared with [errors.Is].
var (
	ErrUnknown     = errors.New("unknown agent")
	ErrKeyMismatch = errors.New("key does not hash to the ID")
	ErrWeakKey     = errors.New("weak or malformed key")
	ErrFull        = errors.New("registry is full")
)

// DefaultRegistrySize is how many agents a [Registry] holds unless told otherwise.
const DefaultRegistrySize = 1 << 20

// Key is what is known of an agent: the key that its signatures have to verify under.
type Key struct {
	Public ed25519.PublicKey // not to be changed
}

// Registry maps IDs to public keys. It is the verifier's only source of keys. It takes nothing on
// somebody's word: an entry gets in only if its key hashes to its ID and is a key that Ed25519
// signatures can be trusted under.
//
// It is safe for concurrent use. It holds a bounded number of agents; at the bound, Register refuses
// new ones with [ErrFull] and forgets nobody.
type Registry struct {
	mu   sync.RWMutex
	keys map[ID]Key
	size int
}

// NewRegistry returns an empty registry for at most size agents; 0 means [DefaultRegistrySize].
func NewRegistry(size int) *Registry {
	if size <= 0 {
		size = DefaultRegistrySize
	}
	return &Registry{keys: map[ID]Key{}, size: size}
}

// Register enters an agent's key. Registering what is there already changes nothing. Errors:
// [ErrWeakKey], [ErrKeyMismatch], [ErrFull].
func (r *Registry) Register(id ID, key ed25519.PublicKey) error {
	if err := CheckKey(id, key); err != nil {
		return fmt.Errorf("register agent %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.keys[id]; known { // the ID fixes the key
		return nil
	}
	if len(r.keys) >= r.size {
		return fmt.Errorf("register agent %s: %w (%d agents)", id, ErrFull, r.size)
	}
	r.keys[id] = Key{Public: bytes.Clone(key)}
	return nil
}

// Unregister forgets an agent and reports whether it was known. Its messages are refused from then on.
func (r *Registry) Unregister(id ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.keys[id]
	delete(r.keys, id)
	return known
}

// Lookup returns an agent's key, or [ErrUnknown] itself, unwrapped: what strangers cause is not worth
// an allocation.
func (r *Registry) Lookup(id ID) (Key, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	key, known := r.keys[id]
	if !known {
		return Key{}, ErrUnknown
	}
	return key, nil
}

// Len returns the number of agents.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.keys)
}

// All returns the agents as they are now, in no order.
func (r *Registry) All() iter.Seq2[ID, Key] {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.All(maps.Clone(r.keys))
}

// CheckKey reports why key must not be registered under id. It refuses a key of the wrong length, an
// encoding that is not canonical (RFC 8032, section 5.1.3, requires y < p and no negative zero), the
// points of low order, under which anybody can sign (https://eprint.iacr.org/2020/1244), and a key
// that does not hash to the ID. Errors: [ErrWeakKey], [ErrKeyMismatch].
func CheckKey(id ID, key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %d bytes where %d are due", ErrWeakKey, len(key), ed25519.PublicKeySize)
	}
	point, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return fmt.Errorf("%w: not a point of the curve", ErrWeakKey)
	}
	if !bytes.Equal(point.Bytes(), key) {
		return fmt.Errorf("%w: not the canonical encoding of its point", ErrWeakKey)
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return fmt.Errorf("%w: a point of low order", ErrWeakKey)
	}
	if IDOf(key) != id {
		return fmt.Errorf("%w: it hashes to %s", ErrKeyMismatch, IDOf(key))
	}
	return nil
}
