package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"filippo.io/edwards25519"
)

// Errors of a [Registry], to be compared with [errors.Is].
var (
	ErrUnknown     = errors.New("unknown agent")
	ErrKeyMismatch = errors.New("key does not hash to the ID")
	ErrWeakKey     = errors.New("weak or malformed key")
	ErrFull        = errors.New("registry is full")

	// ErrRevoked says that the root key has revoked the agent.
	ErrRevoked = errors.New("agent is revoked")
	// ErrQuarantined says that the root key has signed two things that contradict each other, so that somebody
	// has to find out why; see Registry.Release.
	ErrQuarantined = errors.New("agent is quarantined: its root key contradicts itself")
	// ErrRolledBack says that a statement is older than the one that is known.
	ErrRolledBack = errors.New("key statement is older than the one that is known")
	// ErrEpoch says that a key epoch is none of those that count.
	ErrEpoch = errors.New("no key of that epoch counts")
	// ErrNotInForce says that the agent's key is not valid yet, or has expired.
	ErrNotInForce = errors.New("key is not in force")
)

// DefaultRegistrySize is how many agents a [Registry] holds unless told otherwise.
const DefaultRegistrySize = 1 << 20

// Key is what is known of an agent: the key that its signatures have to verify under. Its slices are not to be
// changed.
type Key struct {
	Public  ed25519.PublicKey
	Epoch   uint64 // of Public
	Sealing []byte // KeyStatement.Sealing of the current statement; nil if it has none
}

// Registry maps IDs to public keys. It is the verifier's only source of keys. It takes nothing on
// somebody's word: an entry gets in only if its key hashes to its ID and is a key that Ed25519
// signatures can be trusted under, and another key counts for it only by a statement that this key has signed.
//
// Who may speak and with what key are two things. [Registry.Register] lets an agent in, [Registry.Unregister]
// puts it out. [Registry.Apply] takes in what its root key says about its keys, which stays known whether the
// agent is in or out: nobody gets back to an older key that way, and who is revoked stays so.
//
// It is safe for concurrent use. It holds a bounded number of agents; at the bound, Register and Apply refuse
// new ones with [ErrFull], and it forgets nobody.
type Registry struct {
	now func() time.Time
	log *slog.Logger

	mu      sync.RWMutex
	agents  map[ID]entry
	members int // entries of agents that are in
	size    int

	watching
}

// entry is an agent that is in, or of which there is a statement, or both.
type entry struct {
	root ed25519.PublicKey
	life *life // nil in the simple mode
	in   bool
}

// RegistryConfig configures a [Registry]. The zero value is usable.
type RegistryConfig struct {
	Size   int              // agents; 0 means DefaultRegistrySize
	Now    func() time.Time // the clock that statements are held against; nil means time.Now
	Logger *slog.Logger     // gets contradictions of root keys; nil means slog.Default
}

// NewRegistry returns an empty registry for at most size agents; 0 means [DefaultRegistrySize].
func NewRegistry(size int) *Registry { return NewRegistryWith(RegistryConfig{Size: size}) }

// NewRegistryWith returns an empty registry. A size that is not positive counts as 0.
func NewRegistryWith(c RegistryConfig) *Registry {
	if c.Size <= 0 {
		c.Size = DefaultRegistrySize
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Registry{now: c.Now, log: c.Logger, agents: map[ID]entry{}, size: c.Size}
}

// Register lets an agent in. The key is its root key, which its ID derives from. Registering what is there
// already changes nothing, and a statement that is known stays in force: an agent that is revoked can be
// registered, and Lookup refuses it all the same. Errors: [ErrWeakKey], [ErrKeyMismatch], [ErrFull].
func (r *Registry) Register(id ID, key ed25519.PublicKey) error {
	if err := CheckKey(id, key); err != nil {
		return fmt.Errorf("register agent %s: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.admit(id, key); err != nil {
		return fmt.Errorf("register agent %s: %w", id, err)
	}
	return nil
}

// admit lets an agent in whose root key has been checked. It wants mu held.
func (r *Registry) admit(id ID, root ed25519.PublicKey) error {
	e, known := r.agents[id]
	if e.in {
		return nil
	}
	if !known {
		if len(r.agents) >= r.size {
			return fmt.Errorf("%w (%d agents)", ErrFull, r.size)
		}
		e.root = bytes.Clone(root)
	}
	e.in = true
	r.agents[id] = e
	r.members++
	return nil
}

// Unregister puts an agent out and reports whether it was in. Its messages are refused from then on. What its
// root key has said about its keys stays known, and counts against the registry's size.
func (r *Registry) Unregister(id ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.agents[id]
	if !e.in {
		return false
	}
	r.members--
	if e.in = false; e.life != nil {
		r.agents[id] = e
	} else {
		delete(r.agents, id)
	}
	return true
}

// Lookup returns the key that an agent signs with now. Its errors are [ErrUnknown], [ErrRevoked],
// [ErrQuarantined] and [ErrNotInForce] themselves, unwrapped: what strangers cause is not worth an allocation.
func (r *Registry) Lookup(id ID) (Key, error) {
	e := r.entry(id)
	if e.life == nil {
		if !e.in {
			return Key{}, ErrUnknown
		}
		return Key{Public: e.root}, nil
	}
	now := r.now()
	return r.keyOf(&e, e.life.statement.epochAt(now), now)
}

// LookupEpoch returns the key that an agent's signatures of an epoch have to verify under: that of the current
// epoch, and, while the overlap lasts, that of the one before. Its errors are those of [Registry.Lookup], and
// [ErrEpoch].
func (r *Registry) LookupEpoch(id ID, epoch uint64) (Key, error) {
	e := r.entry(id)
	if e.life != nil {
		return r.keyOf(&e, epoch, r.now())
	}
	switch {
	case !e.in:
		return Key{}, ErrUnknown
	case epoch != 0:
		return Key{}, ErrEpoch
	}
	return Key{Public: e.root}, nil
}

func (r *Registry) keyOf(e *entry, epoch uint64, now time.Time) (Key, error) {
	if err := e.refusal(); err != nil {
		return Key{}, err
	}
	public, err := e.life.keyAt(epoch, now)
	if err != nil {
		return Key{}, err
	}
	return Key{Public: public, Epoch: epoch, Sealing: e.life.statement.Sealing}, nil
}

func (r *Registry) entry(id ID) entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.agents[id]
}

// Len returns the number of agents that are in.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.members
}

// All returns the agents that are in as they are now, with the key that [Registry.Lookup] returns, in no order.
// An agent whose key does not count, for whatever reason, has the zero Key.
func (r *Registry) All() iter.Seq2[ID, Key] {
	r.mu.RLock()
	agents := maps.Clone(r.agents)
	r.mu.RUnlock()
	return func(yield func(ID, Key) bool) {
		for id, e := range agents {
			if !e.in {
				continue
			}
			key := Key{Public: e.root}
			if e.life != nil {
				now := r.now()
				key, _ = r.keyOf(&e, e.life.statement.epochAt(now), now)
			}
			if !yield(id, key) {
				return
			}
		}
	}
}

// CheckKey reports why key must not be registered under id. It refuses a key of the wrong length, an
// encoding that is not canonical (RFC 8032, section 5.1.3, requires y < p and no negative zero), the
// points of low order, under which anybody can sign (https://eprint.iacr.org/2020/1244), and a key
// that does not hash to the ID. Errors: [ErrWeakKey], [ErrKeyMismatch].
func CheckKey(id ID, key ed25519.PublicKey) error {
	if err := checkPoint(key); err != nil {
		return err
	}
	if IDOf(key) != id {
		return fmt.Errorf("%w: it hashes to %s", ErrKeyMismatch, IDOf(key))
	}
	return nil
}

// checkPoint is CheckKey for a key that no ID derives from.
func checkPoint(key ed25519.PublicKey) error {
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
	return nil
}
