package discovery

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// change tells populations what has become of an agent.
type change struct {
	id      identity.ID
	root    []byte // nil if only its keys have changed
	inForce bool
}

func changeOf(a *agent, inForce bool) []change {
	return []change{{id: a.ID, root: a.Key, inForce: inForce}}
}

// take takes in an entry of the store, and returns what that has changed. What does not verify changes nothing,
// so that whoever overwrites an agent's entry with rubbish does not take the agent off the network before its
// descriptor expires. Pass is the pass over the store that shows the entry, 0 if there is none.
func (s *Service) take(ctx context.Context, entry store.Entry, pass int) []change {
	if id, ok := s.statementOf(entry.Key); ok {
		if !s.takeStatement(entry) {
			return nil
		}
		return s.keysChanged(id)
	}
	if s.hasSeen(entry, pass) {
		return nil
	}
	d, key, err := s.open(entry)
	if err == nil {
		err = s.acceptKeys(ctx, d, key)
	}
	if err != nil {
		s.log.Debug("descriptor passed over", "key", entry.Key, "error", err)
		return nil
	}
	return s.accept(d, key, entry.Revision, pass)
}

// hasSeen reports whether the entry is the one that was verified last.
func (s *Service) hasSeen(entry store.Entry, pass int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.index.agents[s.agentOf(entry.Key)]
	if a == nil {
		return false
	}
	if pass > 0 {
		a.generation = pass
	}
	return a.listed && a.revision == entry.Revision
}

// agentOf returns the agent whose descriptor has this key, or the zero ID.
func (s *Service) agentOf(key string) identity.ID {
	text, _ := strings.CutPrefix(key, s.prefix)
	id, _ := identity.ParseID(text)
	return id
}

// open verifies an entry of the store: a descriptor counts only under its own agent's key, while it is in
// force, and if it is admitted.
func (s *Service) open(entry store.Entry) (Descriptor, signerKey, error) {
	d, key, err := open(entry.Value)
	switch {
	case err != nil:
	case entry.Key != s.key(d.ID):
		err = fmt.Errorf("%w: it stands under %q", ErrForged, entry.Key)
	default:
		err = s.check(d)
	}
	return d, key, err
}

// ErrNotAdmitted says that Config.Admit does not let an agent's descriptor count.
var ErrNotAdmitted = errors.New("agent is not admitted")

func (s *Service) check(d Descriptor) error {
	if d.Network != s.network {
		return fmt.Errorf("%w: it is of network %q", ErrMalformed, d.Network)
	}
	if err := d.CheckTime(s.now()); err != nil {
		return err
	}
	if s.admit != nil && !s.admit(d) {
		return fmt.Errorf("agent %s: %w", d.ID, ErrNotAdmitted)
	}
	return nil
}

// acceptKeys takes in the statement of a descriptor and reports whether its key counts.
func (s *Service) acceptKeys(ctx context.Context, d Descriptor, key signerKey) error {
	known := s.Knows(d.ID)
	if !known && !s.hasRoom() {
		return identity.ErrFull
	}
	if !known && s.keys.leftOut.Load() {
		if err := s.fetchStatement(ctx, d.ID); err != nil {
			return err
		}
	}
	if len(d.Statement) > 0 {
		if _, err := s.keys.learn(d.Statement); err != nil && !errors.Is(err, identity.ErrRolledBack) {
			return err
		}
	}
	return s.keys.counts(d.ID, key)
}

// Knows reports whether there is something known of the agent: a descriptor, or that it has left and until when
// nothing of it can be replayed.
func (s *Service) Knows(id identity.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.agents[id] != nil
}

// hasRoom reports whether another agent can be taken in, and counts that one is refused otherwise.
func (s *Service) hasRoom() bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.index.agents) < s.index.most {
		return true
	}
	s.index.expire(now)
	if len(s.index.agents) < s.index.most {
		return true
	}
	s.index.refused++
	return false
}

// accept follows a descriptor that was verified, unless a later one is known.
func (s *Service) accept(d Descriptor, key signerKey, revision store.Revision, pass int) []change {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.index.agents[d.ID]
	if a != nil && !a.newer(d, key) {
		if revision > a.revision { // or the watch only comes later than what this service has written since
			s.log.Warn("the store went back to an older descriptor; ignored", "agent", d.ID)
		}
		return nil
	}
	if a = s.index.put(d, key, now); a == nil {
		return nil
	}
	if a.revision = revision; pass > 0 {
		a.generation = pass
	}
	return changeOf(a, s.index.inForce(a, now))
}

// keysChanged says that what is known of an agent's keys is not what it was.
func (s *Service) keysChanged(id identity.ID) []change {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if a := s.index.agents[id]; a != nil {
		return changeOf(a, s.index.inForce(a, now))
	}
	return []change{{id: id}}
}

// unlist takes out an agent whose entry was deleted. Its sequence stays known until nothing can be replayed.
func (s *Service) unlist(gone store.Entry) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.index.agents[s.agentOf(gone.Key)]
	if a == nil || gone.Revision < a.revision { // it has been written again since
		return nil
	}
	a.listed = false
	return changeOf(a, false)
}

// unlistUnseen takes out the agents that a whole pass over the store did not show, and those that have run out.
func (s *Service) unlistUnseen(pass int) (changes []change) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.index.agents {
		if a.generation < pass && a.listed {
			a.listed = false
			changes = append(changes, changeOf(a, false)...)
		}
	}
	for _, a := range s.index.expire(now) {
		changes = append(changes, changeOf(a, false)...)
	}
	return changes
}
