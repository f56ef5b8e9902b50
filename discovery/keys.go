package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// maxStrangers bounds the statements that are kept of agents of whom there is no descriptor. At the bound,
// statements of others are read when their descriptors come.
const maxStrangers = 1 << 14

// book is what a service knows of agents' keys: for each agent the statement that counts, and never an older
// one. It is safe for concurrent use.
type book struct {
	*identity.Registry

	mu        sync.Mutex
	strangers int
	leftOut   atomic.Bool // statements of strangers were left out
}

func newBook(agents int, now func() time.Time, log *slog.Logger) *book {
	return &book{Registry: identity.NewRegistryWith(identity.RegistryConfig{Size: agents + maxStrangers, Now: now, Logger: log})}
}

// learn takes in a statement, and reports whether it changes what counts.
func (b *book) learn(raw []byte) (changed bool, err error) {
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return false, err
	}
	before := b.Statement(s.ID)
	if bytes.Equal(before, raw) {
		return false, nil
	}
	_, err = b.RegisterKeys(raw)
	changed = !bytes.Equal(before, b.Statement(s.ID)) || errors.Is(err, identity.ErrQuarantined)
	return changed, err
}

// learnOfStranger is learn for an agent of whom there is no descriptor.
func (b *book) learnOfStranger(raw []byte) (changed bool, err error) {
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	unknown := b.Statement(s.ID) == nil
	if unknown && b.strangers >= maxStrangers {
		b.leftOut.Store(true)
		return false, fmt.Errorf("statement of agent %s: %w", s.ID.Short(), identity.ErrFull)
	}
	if changed, err = b.learn(raw); unknown && changed {
		b.strangers++
	}
	return changed, err
}

// counts reports why a key does not count for the agent now.
func (b *book) counts(id identity.ID, key signerKey) error {
	known, err := b.LookupEpoch(id, key.epoch)
	switch {
	case errors.Is(err, identity.ErrUnknown): // the simple mode, or its statement was not taken in
		if key.epoch != 0 {
			return identity.ErrEpoch
		}
		return nil
	case err != nil:
		return err
	case !known.Public.Equal(key.public):
		return identity.ErrKeyMismatch
	}
	return nil
}

// statementsFolder sorts before every ID, so that who lists the entries reads what is revoked first.
const statementsFolder = "-keys/"

func (s *Service) statementKey(id identity.ID) string {
	return s.prefix + statementsFolder + id.String()
}

// statementOf returns the agent whose statement stands under the key, if that is where statements stand.
func (s *Service) statementOf(key string) (identity.ID, bool) {
	text, ok := strings.CutPrefix(key, s.prefix+statementsFolder)
	if !ok {
		return identity.ID{}, false
	}
	id, err := identity.ParseID(text)
	return id, err == nil
}

// PublishStatement publishes a signed key statement by itself: the revocation of an agent that does not run
// any more, say, or the next key of one before it uses it. Whoever follows the store takes it in at once,
// those that the agent is known to with effect on what they have received and not used yet. Publishing
// what stands there already is fine. Errors: those of identity.Registry.Apply, among them
// identity.ErrRolledBack for one that is older than what stands there, or the store's.
func (s *Service) PublishStatement(ctx context.Context, raw []byte) error {
	for range maxPublishAttempts {
		_, err := s.tryPublishStatement(ctx, raw)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("publish key statement: %w", store.ErrConflict)
}

func (s *Service) tryPublishStatement(ctx context.Context, raw []byte) (changed bool, err error) {
	statement, err := identity.OpenKeys(raw)
	if err != nil {
		return false, fmt.Errorf("publish key statement: %w", err)
	}
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("publish key statement of %s: %w", statement.ID, err)
	}
	key := s.statementKey(statement.ID)
	entry, err := s.store.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fail(err)
	}
	scratch := identity.NewRegistryWith(identity.RegistryConfig{Size: 2, Now: s.now, Logger: slog.New(slog.DiscardHandler)})
	if standing, err := identity.OpenKeys(entry.Value); err == nil && standing.ID == statement.ID {
		scratch.Apply(entry.Value) // fails on nothing that OpenKeys takes
	}
	if changed, err = scratch.Apply(raw); err != nil {
		return fail(err)
	}
	if !changed {
		return false, nil
	}
	revision, err := s.store.Put(ctx, key, raw, entry.Revision)
	if err != nil {
		return fail(err)
	}
	s.written(ctx, store.Entry{Key: key, Value: raw, Revision: revision})
	return true, nil
}

// takeStatement takes in an entry of the folder of statements.
func (s *Service) takeStatement(entry store.Entry) (changed bool) {
	id, ok := s.statementOf(entry.Key)
	if !ok || bytes.Equal(s.keys.Statement(id), entry.Value) {
		return false
	}
	if statement, err := identity.OpenKeys(entry.Value); err != nil || statement.ID != id {
		s.log.Debug("key statement passed over", "key", entry.Key, "error", err)
		return false
	}
	learn := s.keys.learn
	if !s.Knows(id) {
		learn = s.keys.learnOfStranger
	}
	changed, err := learn(entry.Value)
	if err != nil && !errors.Is(err, identity.ErrRevoked) {
		s.log.Warn("key statement of an agent does not count", "agent", id, "error", err)
	}
	return changed
}

// fetchStatement reads the statement that stands in the store about an agent.
func (s *Service) fetchStatement(ctx context.Context, id identity.ID) error {
	entry, err := s.store.Get(ctx, s.statementKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if statement, err := identity.OpenKeys(entry.Value); err == nil && statement.ID == id {
		s.keys.learn(entry.Value) // what does not count changes nothing
	}
	return nil
}

// Quarantined returns the agents whose root keys contradict themselves, by what was published about them. Their
// descriptors do not count.
func (s *Service) Quarantined() []identity.Quarantine { return s.keys.Quarantined() }

// Release ends the quarantine of an agent here, as [identity.Registry.Release] does; registries that are populated
// have one of their own to end. It reports whether the agent was quarantined.
func (s *Service) Release(id identity.ID) (released bool) {
	s.update(func() []change {
		if released = s.keys.Release(id); !released {
			return nil
		}
		return s.keysChanged(id)
	})
	return released
}
