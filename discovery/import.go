package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// ErrOld says that what comes is not later than what is known already.
var ErrOld = errors.New("not later than what is known")

// Entry is a signed descriptor or a signed key statement as it stands in a store.
type Entry struct {
	ID        identity.ID // of the agent; not verified: see Open and identity.OpenKeys
	Raw       []byte
	Statement bool // it is a key statement, and not a descriptor
}

// Entries yields what the store holds of the network, as it is there: nothing is verified, but what says of
// itself that it has run out is left out. An error is the last.
func (s *Service) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for entry, err := range s.store.List(ctx, s.prefix) {
			e, ok := s.entryOf(entry)
			if ok = ok && (e.Statement || !s.ranOut(entry, 0)); (ok || err != nil) && !yield(e, err) {
				return
			}
		}
	}
}

// Changes yields what comes into the store from now on, and first what it holds, as it is there. It ends with
// an error: ctx's cause, or the store's.
func (s *Service) Changes(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for event, err := range s.store.Watch(ctx, s.prefix, 0) {
			if err == nil && event.Op != store.OpPut {
				continue
			}
			if e, ok := s.entryOf(event.Entry); (ok || err != nil) && !yield(e, err) {
				return
			}
		}
	}
}

func (s *Service) entryOf(entry store.Entry) (Entry, bool) {
	id, statement := s.statementOf(entry.Key)
	if !statement {
		id = s.agentOf(entry.Key)
	}
	return Entry{ID: id, Raw: entry.Value, Statement: statement}, !id.IsZero()
}

// Import puts a signed descriptor from elsewhere into the store, if it is later than what is known of the
// agent. Of an agent that is not known, admit decides, after the descriptor was verified; nil admits none. It
// returns the descriptor. Errors: [ErrOld], which costs no verification, [ErrMalformed], [ErrForged],
// [ErrExpired], [ErrNotAdmitted], those of keys that do not count, identity.ErrFull, or the store's.
func (s *Service) Import(ctx context.Context, raw []byte, admit func(Descriptor) bool) (Descriptor, error) {
	for range maxPublishAttempts {
		d, err := s.tryImport(ctx, raw, admit)
		if !errors.Is(err, store.ErrConflict) {
			return d, err
		}
	}
	return Descriptor{}, fmt.Errorf("import descriptor: %w", store.ErrConflict)
}

func (s *Service) tryImport(ctx context.Context, raw []byte, admit func(Descriptor) bool) (Descriptor, error) {
	claimed, _, err := decode(raw)
	if err != nil {
		return Descriptor{}, fmt.Errorf("import descriptor: %w: %w", ErrMalformed, err)
	}
	fail := func(err error) (Descriptor, error) {
		return Descriptor{}, fmt.Errorf("import descriptor of %s: %w", claimed.ID, err)
	}
	known, entry, err := s.standing(ctx, claimed)
	if err != nil {
		return fail(err)
	}
	d, key, err := open(raw)
	if err == nil {
		err = s.check(d)
	}
	if err == nil && !known && (admit == nil || !admit(d)) {
		err = ErrNotAdmitted
	}
	if err == nil {
		err = s.acceptKeys(ctx, d, key)
	}
	if err != nil {
		return fail(err)
	}
	if previous, standing, err := open(entry.Value); err == nil && previous.ID == d.ID {
		a := agent{Descriptor: previous, key: standing}
		if !a.newer(d, key) || a.Sequence == d.Sequence && standing.epoch == key.epoch {
			return fail(ErrOld)
		}
	}
	revision, err := s.store.Put(ctx, s.key(d.ID), raw, entry.Revision)
	if err != nil {
		return fail(err)
	}
	s.written(ctx, store.Entry{Key: s.key(d.ID), Value: raw, Revision: revision})
	return d, nil
}

// standing returns what the store holds of an agent, and whether the agent is known: [ErrOld] if what is
// claimed would not be later.
func (s *Service) standing(ctx context.Context, claimed Descriptor) (known bool, entry store.Entry, err error) {
	s.mu.RLock()
	if a := s.index.agents[claimed.ID]; a != nil {
		known = true
		if bytes.Equal(a.Statement, claimed.Statement) && claimed.Sequence <= a.Sequence {
			err = ErrOld
		}
	}
	s.mu.RUnlock()
	if err != nil {
		return known, entry, err
	}
	entry, err = s.store.Get(ctx, s.key(claimed.ID))
	if errors.Is(err, store.ErrNotFound) {
		return known, store.Entry{}, nil
	}
	return known, entry, err
}

// ImportStatement puts a signed key statement from elsewhere into the store, if it is later than what is known
// and about an agent that is known. It reports whether that changed anything. Errors: those of
// [Service.PublishStatement], and [ErrNotFound] for an agent that is not known.
func (s *Service) ImportStatement(ctx context.Context, raw []byte) (changed bool, err error) {
	statement, err := identity.OpenKeys(raw)
	if err != nil {
		return false, fmt.Errorf("import key statement: %w", err)
	}
	if !s.Knows(statement.ID) && s.keys.Statement(statement.ID) == nil {
		return false, fmt.Errorf("import key statement of %s: %w", statement.ID, ErrNotFound)
	}
	for range maxPublishAttempts {
		if changed, err = s.tryPublishStatement(ctx, raw); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return changed, err
}

// Sweep deletes descriptors from the store that ran out long enough ago that nobody's clock has them in force.
// It is for stores that nobody else cleans up. It returns how many there were.
func (s *Service) Sweep(ctx context.Context) (swept int, err error) {
	for entry, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			return swept, fmt.Errorf("sweep the discovery store: %w", err)
		}
		if _, isStatement := s.statementOf(entry.Key); isStatement || !s.ranOut(entry, sweepAfter) {
			continue
		}
		if s.store.Delete(ctx, entry.Key, entry.Revision) == nil { // or somebody has renewed it
			swept++
		}
	}
	return swept, nil
}

// sweepAfter is how long after its expiry a descriptor is left alone.
const sweepAfter = 10 * time.Minute

func (s *Service) ranOut(entry store.Entry, ago time.Duration) bool {
	d, _, err := decode(entry.Value)
	return err == nil && !s.now().Before(d.Expires.Add(ago))
}

// Stats are counts of a [Service].
type Stats struct {
	Known   int    // agents that are known, those that have left included until nothing of them can be replayed
	Refused uint64 // descriptors of new agents for which there was no room
}

// Stats returns what the service knows now.
func (s *Service) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Known: len(s.index.agents), Refused: s.index.refused}
}

// Claims returns whose descriptor raw says that it is. Nothing is verified. Error: [ErrMalformed].
func Claims(raw []byte) (identity.ID, error) {
	d, _, err := decode(raw)
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return d.ID, nil
}
