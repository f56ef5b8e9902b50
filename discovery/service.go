package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// DefaultTTL is how long a descriptor is in force unless told otherwise. Agents renew at half of it.
const DefaultTTL = 2 * time.Minute

const keyPrefix = "discovery"

// Config configures a [Service].
type Config struct {
	Store   store.Store      // required
	Network string           // required; descriptors of other networks do not count
	TTL     time.Duration    // how long descriptors are in force; 0 means DefaultTTL
	Now     func() time.Time // nil means time.Now
	Logger  *slog.Logger     // nil means slog.Default
}

// Service keeps descriptors in a store. It is safe for concurrent use; several services, in several
// processes, may share a store.
type Service struct {
	store   store.Store
	network string
	prefix  string // where the descriptors of the network stand; networks may share a store
	ttl     time.Duration
	now     func() time.Time
	log     *slog.Logger

	mu     sync.Mutex
	opened map[string]opened // by key: what has been verified at which revision
}

type opened struct {
	revision   store.Revision
	descriptor Descriptor
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
	s := &Service{store: c.Store, network: c.Network, now: c.Now, opened: map[string]opened{}}
	s.prefix = store.Key(keyPrefix, c.Network) + "/"
	s.ttl = cmp.Or(c.TTL, DefaultTTL)
	s.log = cmp.Or(c.Logger, slog.Default())
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// TTL returns how long descriptors are in force; agents renew at half of it.
func (s *Service) TTL() time.Duration { return s.ttl }

func (s *Service) key(id identity.ID) string { return s.prefix + id.String() }

// Register signs d for the agent and publishes it in place of an earlier one. It fills in ID, Key,
// Network, Sequence and times, and returns what it published.
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
	d.ID, d.Key, d.Network = id.ID(), id.PublicKey(), s.network
	d.Issued, d.Expires = now, now.Add(s.ttl)
	d.Sequence = uint64(now.UnixMilli()) // rises even if the store has lost the last one
	if previous, err := Open(entry.Value); err == nil && previous.ID == d.ID {
		d.Sequence = max(d.Sequence, previous.Sequence+1)
		if d.Withdrawn && previous.Expires.After(d.Expires) {
			d.Expires = previous.Expires
		}
	}
	raw, err := Sign(id, d)
	if err != nil {
		return Descriptor{}, err
	}
	if _, err := s.store.Put(ctx, key, raw, entry.Revision); err != nil {
		return Descriptor{}, fmt.Errorf("publish descriptor of %s: %w", id.ID(), err)
	}
	return d, nil
}

// Lookup returns the descriptor of one agent that is in force. Errors: [ErrNotFound], which also stands
// for one that has expired or was withdrawn, or the store's.
func (s *Service) Lookup(ctx context.Context, id identity.ID) (Descriptor, error) {
	entry, err := s.store.Get(ctx, s.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return Descriptor{}, fmt.Errorf("look up %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Descriptor{}, fmt.Errorf("look up %s: %w", id, err)
	}
	d, ok := s.inForce(entry)
	if !ok {
		return Descriptor{}, fmt.Errorf("look up %s: %w", id, ErrNotFound)
	}
	return d, nil
}

// Query selects agents. Its zero value selects all.
type Query struct {
	Topics       []message.Topic // agents that listen to any of these
	Capabilities []string        // agents that have all of these
}

func (q Query) matches(d Descriptor) bool {
	for _, name := range q.Capabilities {
		if !d.Can(name) {
			return false
		}
	}
	listens := func(t message.Topic) bool {
		return slices.ContainsFunc(d.Topics, func(p message.Pattern) bool { return p.Matches(t) })
	}
	return len(q.Topics) == 0 || slices.ContainsFunc(q.Topics, listens)
}

// Query returns the agents that match, in the order of their IDs. Descriptors that are forged,
// malformed, expired, withdrawn or of another network are passed over.
func (s *Service) Query(ctx context.Context, q Query) ([]Descriptor, error) {
	var found []Descriptor
	seen := map[string]bool{}
	for entry, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			return nil, fmt.Errorf("query agents: %w", err)
		}
		seen[entry.Key] = true
		if d, ok := s.inForce(entry); ok && q.matches(d) {
			found = append(found, d)
		}
	}
	s.forgetUnlisted(seen)
	return found, nil
}

// inForce verifies an entry, once for each revision, and reports whether its descriptor counts now.
func (s *Service) inForce(entry store.Entry) (Descriptor, bool) {
	s.mu.Lock()
	known, ok := s.opened[entry.Key]
	s.mu.Unlock()
	if !ok || known.revision != entry.Revision {
		d, err := s.open(entry)
		if err != nil {
			s.log.Debug("descriptor passed over", "key", entry.Key, "error", err)
			return Descriptor{}, false
		}
		known = s.remember(entry, d)
	}
	d := known.descriptor
	return d, !d.Withdrawn && d.CheckTime(s.now()) == nil
}

// remember keeps what was verified and returns it, or a later descriptor of the agent that has not run
// out: a store that goes back to an older one is not followed.
func (s *Service) remember(entry store.Entry, d Descriptor) opened {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.opened[entry.Key]
	if ok && d.Sequence < known.descriptor.Sequence && now.Before(known.descriptor.Expires) {
		return known
	}
	known = opened{entry.Revision, d}
	s.opened[entry.Key] = known
	return known
}

// open verifies an entry of the store: a descriptor counts only under its own agent's key.
func (s *Service) open(entry store.Entry) (Descriptor, error) {
	d, err := Open(entry.Value)
	if err != nil {
		return Descriptor{}, err
	}
	if entry.Key != s.key(d.ID) {
		return Descriptor{}, fmt.Errorf("%w: it stands under %q", ErrForged, entry.Key)
	}
	if d.Network != s.network {
		return Descriptor{}, fmt.Errorf("%w: it is of network %q", ErrMalformed, d.Network)
	}
	return d, nil
}

// forgetUnlisted keeps the memory of verified entries to what the store holds and what has not run out.
func (s *Service) forgetUnlisted(listed map[string]bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, known := range s.opened {
		if !listed[key] && !now.Before(known.descriptor.Expires) {
			delete(s.opened, key)
		}
	}
}
