package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// DefaultTTL is how long a descriptor is in force unless told otherwise. Agents renew at half of it.
const DefaultTTL = 2 * time.Minute

// DefaultMaxDescriptors is how many agents a [Service] knows at a time unless told otherwise. One of a few
// hundred bytes takes some 2 KB of memory, one at every limit some 150 KB.
const DefaultMaxDescriptors = 1 << 18

const keyPrefix = "discovery"

// Config configures a [Service].
type Config struct {
	Store   store.Store   // required
	Network string        // required; descriptors of other networks do not count
	TTL     time.Duration // how long descriptors are in force; 0 means DefaultTTL

	// Admit says whose descriptors count here: for queries and for registries that are populated. It is asked
	// once a descriptor, after that was verified, and must return at once. Nil admits everybody who can write
	// to the store.
	Admit func(Descriptor) bool
	// Trust returns how far an agent is trusted, from 0 to 1, for [Query].MinTrust; NaN is no trust at all.
	Trust func(identity.ID) float64
	// MaxDescriptors bounds the agents that are known at a time, expired ones included until nothing of them
	// can be replayed. At the bound new ones do not count until others have run out. 0 means
	// DefaultMaxDescriptors.
	MaxDescriptors int

	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil means slog.Default
}

// Service keeps descriptors in a store. It is safe for concurrent use; several services, in several
// processes, may share a store.
type Service struct {
	store   store.Store
	network string
	prefix  string // where the descriptors of the network stand; networks may share a store
	ttl     time.Duration
	admit   func(Descriptor) bool
	trust   func(identity.ID) float64
	now     func() time.Time
	log     *slog.Logger

	keys  *book
	index *index
	needs needs

	reading sync.Mutex // held while all of the store is listed
	passes  int        // over the store; under reading

	following   sync.Mutex // held while a follower starts or ends
	follower    *follower  // nil while nobody needs it; under mu
	updating    sync.Mutex // held while populations are told, in order; before mu
	mu          sync.RWMutex
	populations map[*Population]struct{} // under updating
}

// New checks the configuration and returns a service.
func New(c Config) (*Service, error) {
	if c.Store == nil {
		return nil, errors.New("discovery.Config.Store: required")
	}
	if err := message.CheckNetwork(c.Network); err != nil {
		return nil, fmt.Errorf("discovery.Config.Network: %w", err)
	}
	if c.TTL < 0 || c.TTL > 0 && c.TTL < time.Second {
		return nil, fmt.Errorf("discovery.Config.TTL: %v is less than a second", c.TTL)
	}
	if c.MaxDescriptors < 0 {
		return nil, fmt.Errorf("discovery.Config.MaxDescriptors: %d is less than none", c.MaxDescriptors)
	}
	s := &Service{
		store: c.Store, network: c.Network, admit: c.Admit, trust: c.Trust, now: c.Now,
		populations: map[*Population]struct{}{},
	}
	s.prefix = store.Key(keyPrefix, c.Network) + "/"
	s.ttl = cmp.Or(c.TTL, DefaultTTL)
	s.log = cmp.Or(c.Logger, slog.Default())
	if s.now == nil {
		s.now = time.Now
	}
	most := cmp.Or(c.MaxDescriptors, DefaultMaxDescriptors)
	s.keys = newBook(most, s.now, s.log)
	s.index = newIndex(most, s.keys)
	return s, nil
}

// TTL returns how long descriptors are in force; agents renew at half of it.
func (s *Service) TTL() time.Duration { return s.ttl }

func (s *Service) key(id identity.ID) string { return s.prefix + id.String() }

// Register signs d for the agent and publishes it in place of an earlier one. It fills in ID, Key,
// Network, Sequence and times, and returns what it published. Without d.Statement it takes the identity's; a
// later one about the same key may be given.
func (s *Service) Register(ctx context.Context, id *identity.Identity, d Descriptor) (Descriptor, error) {
	d.Withdrawn = false
	return s.publish(ctx, id, d)
}

// Renew is Register; agents call it before their descriptor expires.
func (s *Service) Renew(ctx context.Context, id *identity.Identity, d Descriptor) (Descriptor, error) {
	return s.Register(ctx, id, d)
}

// Withdraw publishes that the agent has left. The tombstone outlives every descriptor before it, so
// that none of them can be put in its place.
func (s *Service) Withdraw(ctx context.Context, id *identity.Identity) error {
	_, err := s.publish(ctx, id, Descriptor{Withdrawn: true})
	return err
}

// maxPublishAttempts bounds how often publish tries against others that write the same agent's entry,
// which only its own key can do with effect.
const maxPublishAttempts = 8

func (s *Service) publish(ctx context.Context, id *identity.Identity, d Descriptor) (Descriptor, error) {
	for range maxPublishAttempts {
		published, err := s.tryPublish(ctx, id, d)
		if !errors.Is(err, store.ErrConflict) {
			return published, err
		}
	}
	return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), store.ErrConflict)
}

func (s *Service) tryPublish(ctx context.Context, id *identity.Identity, d Descriptor) (Descriptor, error) {
	key := s.key(id.ID())
	entry, err := s.store.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), err)
	}
	now := s.now().Truncate(time.Millisecond) // as it is signed
	d.ID, d.Network = id.ID(), s.network
	d.Issued, d.Expires = now, now.Add(s.ttl)
	signer, err := d.setKey(id)
	if err != nil {
		return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), err)
	}
	d.Sequence = uint64(now.UnixMilli()) // rises even if the store has lost the last one
	if err := d.follow(entry.Value, signer.epoch); err != nil {
		return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), err)
	}
	raw, err := Sign(id, d)
	if err != nil {
		return Descriptor{}, err
	}
	revision, err := s.store.Put(ctx, key, raw, entry.Revision)
	if err != nil {
		return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), err)
	}
	s.written(ctx, store.Entry{Key: key, Value: raw, Revision: revision})
	return d, nil
}

// written has what this service has put into the store count at once, where the watch would show it soon.
func (s *Service) written(ctx context.Context, entry store.Entry) {
	if s.current() != nil {
		s.update(func() []change { return s.take(ctx, entry, 0) })
	}
}

// setKey fills in the root key and, if d has none, the statement of the identity.
func (d *Descriptor) setKey(id *identity.Identity) (signerKey, error) {
	if d.Statement == nil {
		d.Statement = id.Statement()
	}
	d.Key = id.PublicKey()
	if d.Statement != nil {
		s, err := identity.OpenKeys(d.Statement)
		if err != nil {
			return signerKey{}, err
		}
		d.Key = s.Root
	}
	return d.signer()
}

// follow has d come after what stands in its place. What an earlier key of the agent has signed gives way
// without that, so a stolen key cannot use up the sequences of the next one.
func (d *Descriptor) follow(standing []byte, epoch uint64) error {
	previous, key, err := open(standing)
	if err != nil || previous.ID != d.ID {
		return nil
	}
	if d.Withdrawn && previous.Expires.After(d.Expires) {
		d.Expires = previous.Expires
	}
	switch {
	case key.epoch > epoch:
		return fmt.Errorf("the agent has a key of epoch %d already, and this is that of epoch %d: %w", key.epoch, epoch, identity.ErrRolledBack)
	case key.epoch < epoch:
		return nil
	case previous.Sequence == math.MaxUint64:
		return errors.New("there are no more sequences: rotate the agent's key")
	}
	d.Sequence = max(d.Sequence, previous.Sequence+1)
	return nil
}
