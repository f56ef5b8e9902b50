package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"
)

// life is what an agent's root key has said about its keys. It is never altered, but replaced.
type life struct {
	statement KeyStatement
	raw       string // the statement as it was signed
	// other is a signed statement that contradicts raw. Until it is released, the agent is quarantined.
	other    string
	released bool
	since    time.Time // when this registry has seen the contradiction
	// older are keys of epochs before the one before, whose overlaps were not over when the keys changed again. It
	// is known only to those who were there.
	older []olderKey
}

type olderKey struct {
	public ed25519.PublicKey
	epoch  uint64
	until  time.Time
}

// maxOlder bounds life.older: keys that change more often than that within an overlap are cut off early.
const maxOlder = 4

// succeed has next keep what is still good of the keys that l knows.
func (l *life) succeed(next *life) {
	s, was := &next.statement, &l.statement
	switch {
	case s.Epoch == was.Epoch:
		next.older = l.older
	case s.Epoch == was.Epoch+1 && len(s.Previous) > 0 && len(was.Previous) > 0:
		older := append(slices.Clone(l.older), olderKey{was.Previous, was.Epoch - 1, was.NotBefore.Add(was.Overlap)})
		next.older = older[max(0, len(older)-maxOlder):]
	}
}

// keyAt returns the key of an epoch as of now. The errors are sentinels, unwrapped.
func (l *life) keyAt(epoch uint64, now time.Time) (ed25519.PublicKey, error) {
	for i := range l.older {
		if k := &l.older[i]; k.epoch == epoch && now.Before(k.until) {
			return k.public, nil
		}
	}
	return l.statement.keyAt(epoch, now)
}

// names reports whether the key of an epoch was not withdrawn before its time.
func (l *life) names(epoch uint64) bool {
	return l.statement.keyOf(epoch) != nil || slices.ContainsFunc(l.older, func(k olderKey) bool { return k.epoch == epoch })
}

// refusal returns why no key of the agent counts, or nil.
func (e *entry) refusal() error {
	switch {
	case e.life != nil && e.life.statement.Revoked:
		return ErrRevoked
	case !e.in:
		return ErrUnknown
	case e.life != nil && e.life.other != "" && !e.life.released:
		return ErrQuarantined
	}
	return nil
}

// Apply takes in a signed statement about an agent's keys, and reports whether it is news. It does not let the
// agent in: until [Registry.Register] does, it only remembers. The statement with the highest sequence counts;
// an older one is refused with [ErrRolledBack]. A revocation counts whatever its sequence, and for good: after
// it everything else is refused with [ErrRevoked].
//
// A root key that contradicts itself (other bytes under the same sequence, or another key under the same epoch)
// has been copied, or has been used carelessly. Then no key of the agent counts until [Registry.Release], and
// the error is [ErrQuarantined]. Other errors: those of [OpenKeys], and [ErrFull].
func (r *Registry) Apply(raw []byte) (changed bool, err error) {
	return r.apply(raw, false)
}

// RegisterKeys is [Registry.Apply] for an agent that it lets in too, as [Registry.Register] does. There is
// no moment at which the agent is in with an older key. It returns the statement. The error is that of Apply,
// but an older statement than the one that is known is none: the newer one counts.
func (r *Registry) RegisterKeys(raw []byte) (KeyStatement, error) {
	s, err := OpenKeys(raw)
	if err != nil {
		return s, err
	}
	if _, err = r.apply(raw, true); errors.Is(err, ErrRolledBack) {
		err = r.Register(s.ID, s.Root)
	}
	return s, err
}

// Prove is for an agent that has proved, on a connection, to hold a key. If that is not its root key, statement
// is the one that it has shown about it; otherwise it is nil. Prove lets the agent in, takes in what is new of the
// statement, and returns the epoch of the key. The key has to count now, by what the registry knows. Errors: those
// of [Registry.Register], [Registry.Apply] and [Registry.LookupEpoch], and [ErrKeyMismatch] for a statement about
// another agent or key.
func (r *Registry) Prove(id ID, key ed25519.PublicKey, statement []byte) (epoch uint64, err error) {
	if statement == nil {
		err = r.Register(id, key)
	} else {
		epoch, err = r.proveBy(id, key, statement)
	}
	if err != nil {
		return 0, err
	}
	counts, err := r.LookupEpoch(id, epoch)
	if err != nil {
		return 0, fmt.Errorf("key of agent %s, epoch %d: %w", id.Short(), epoch, err)
	}
	if !counts.Public.Equal(key) {
		return 0, fmt.Errorf("key of agent %s, epoch %d: %w: another one counts", id.Short(), epoch, ErrKeyMismatch)
	}
	return epoch, nil
}

func (r *Registry) proveBy(id ID, key ed25519.PublicKey, statement []byte) (epoch uint64, err error) {
	s, err := OpenKeys(statement)
	if err != nil {
		return 0, err
	}
	if s.ID != id || !s.Operational.Equal(key) {
		return 0, fmt.Errorf("key statement of agent %s: %w: it is not about the key that agent %s has", s.ID.Short(), ErrKeyMismatch, id.Short())
	}
	_, err = r.RegisterKeys(statement)
	return s.Epoch, err
}

func (r *Registry) apply(raw []byte, admit bool) (changed bool, err error) {
	s, err := OpenKeys(raw)
	if err != nil {
		return false, fmt.Errorf("apply key statement: %w", err)
	}
	change, err := r.take(&s, string(raw), admit)
	if change != 0 {
		r.announce(Change{ID: s.ID, Kind: change, Epoch: s.Epoch})
	}
	if err != nil {
		return change != 0, fmt.Errorf("apply key statement %d of agent %s: %w", s.Sequence, s.ID.Short(), err)
	}
	return change != 0, nil
}

// take returns what has changed, 0 if nothing has.
func (r *Registry) take(s *KeyStatement, raw string, admit bool) (ChangeKind, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.agents[s.ID]
	if !known && len(r.agents) >= r.size {
		return 0, fmt.Errorf("%w (%d agents)", ErrFull, r.size)
	}
	next, change, err := e.life.follow(s, raw)
	if change == Quarantined {
		next.since = r.now()
	}
	if change != 0 {
		e.root, e.life = s.Root, next
		r.agents[s.ID] = e
	}
	if admit && err == nil {
		err = r.admit(s.ID, s.Root)
	}
	return change, err
}

// follow returns what is known after another statement, and what that changes.
func (l *life) follow(s *KeyStatement, raw string) (*life, ChangeKind, error) {
	next := &life{statement: *s, raw: raw}
	switch {
	case l == nil && s.Revoked:
		return next, Revoked, nil
	case l == nil:
		return next, Rotated, nil
	case l.statement.Revoked && s.Revoked, l.raw == raw:
		return l, 0, l.standing()
	case l.statement.Revoked:
		return l, 0, ErrRevoked
	case s.Revoked:
		return next, Revoked, nil
	case l.other == raw && l.released: // an operator has decided for the other one
		return l, 0, ErrRolledBack
	case l.contradicts(s):
		return l.quarantine(raw)
	case s.Sequence < l.statement.Sequence, s.Epoch < l.statement.Epoch:
		return l, 0, ErrRolledBack
	case l.standing() != nil:
		return l, 0, ErrQuarantined
	}
	l.succeed(next)
	return next, Rotated, nil
}

// standing returns ErrQuarantined as long as that is so.
func (l *life) standing() error {
	if l.other != "" && !l.released {
		return ErrQuarantined
	}
	return nil
}

func (l *life) quarantine(other string) (*life, ChangeKind, error) {
	if l.standing() != nil {
		return l, 0, ErrQuarantined
	}
	next := *l
	next.other, next.released = other, false
	return &next, Quarantined, ErrQuarantined
}

// contradicts reports whether one root key should not have said both: statements have each a sequence of their
// own, and epochs one key.
func (l *life) contradicts(s *KeyStatement) bool {
	if s.Sequence == l.statement.Sequence {
		return true
	}
	for _, epoch := range []uint64{s.Epoch, s.Epoch - 1} {
		one, other := s.keyOf(epoch), l.statement.keyOf(epoch)
		if one != nil && other != nil && !one.Equal(other) {
			return true
		}
	}
	return false
}

// keyOf returns the key of an epoch that the statement names, whether it counts or not.
func (s *KeyStatement) keyOf(epoch uint64) ed25519.PublicKey {
	switch {
	case epoch == s.Epoch:
		return s.Operational
	case epoch+1 == s.Epoch && len(s.Previous) > 0:
		return s.Previous
	}
	return nil
}

// Recheck returns why something that was verified some time ago, under the agent's key of an epoch, must not be
// used any more: the agent is revoked or quarantined by now, or that key was withdrawn without an overlap
// ([ErrEpoch]). That the agent was put out or the key has run out since is no reason. It is for work that waits;
// what comes from a network is for LookupEpoch.
func (r *Registry) Recheck(id ID, epoch uint64) error {
	e := r.entry(id)
	if e.life == nil {
		return nil
	}
	if err := e.refusal(); err != nil && err != ErrUnknown {
		return err
	}
	if !e.life.names(epoch) {
		return ErrEpoch
	}
	return nil
}

// Statement returns the signed statement about an agent that counts, nil if there is none. It is there for an
// agent that is revoked or quarantined too, and for one that is not in.
func (r *Registry) Statement(id ID) []byte {
	e := r.entry(id)
	if e.life == nil {
		return nil
	}
	return []byte(e.life.raw)
}

// Release ends the quarantine of an agent: the statement that was known first counts again, and the one that
// contradicts it is refused from now on. It is for operators who have found out what happened. It reports
// whether the agent was quarantined.
func (r *Registry) Release(id ID) bool {
	if !r.release(id) {
		return false
	}
	r.announce(Change{ID: id, Kind: Released})
	return true
}

func (r *Registry) release(id ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.agents[id]
	if e.life == nil || e.life.standing() == nil {
		return false
	}
	next := *e.life
	next.released = true
	e.life = &next
	r.agents[id] = e
	return true
}
