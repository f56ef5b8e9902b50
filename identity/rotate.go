package identity

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of a [Rotation].
const (
	// DefaultOverlap is longer than any message is fresh, so that none is lost to a rotation.
	DefaultOverlap = 10 * time.Minute
	// DefaultKeyLifetime is how long an operational key is good for.
	DefaultKeyLifetime = 90 * 24 * time.Hour
)

// Rotation says how [Identity.Rotate] makes the next operational key. The zero value is a first rotation with
// the defaults.
type Rotation struct {
	// Current is the agent's signed statement, of the highest sequence there is; nil if there never was one.
	Current   []byte
	NotBefore time.Time     // when the new key is in force; zero means now
	Lifetime  time.Duration // how long it is then; 0 means DefaultKeyLifetime
	Overlap   time.Duration // how long the key before counts after NotBefore; 0 means DefaultOverlap
	// NoOverlap has the key before refused as soon as the statement is known, for keys that were stolen. What
	// is under way is lost.
	NoOverlap bool
	Sealing   []byte // see KeyStatement.Sealing
}

// IsRoot reports whether i holds the private root key, from which its ID derives.
func (i *Identity) IsRoot() bool { return IDOf(i.public) == i.id }

// Rotate makes a new operational key and the statement about it, and returns the identity that works with
// them: it has the ID of i, but not its key. i must hold the root key, which is not needed again until the
// next rotation. The statement of a key that was revoked cannot be rotated.
func (i *Identity) Rotate(r Rotation) (*Identity, error) {
	s, err := i.next(r)
	if err != nil {
		return nil, fmt.Errorf("rotate the key of agent %s: %w", i.id.Short(), err)
	}
	operational, err := Generate()
	if err != nil {
		return nil, err
	}
	s.Operational = operational.public
	raw, err := SignKeys(i, s)
	if err != nil {
		return nil, err
	}
	return operational.WithStatement(raw)
}

// next returns the statement that follows the current one, all but the operational key.
func (i *Identity) next(r Rotation) (KeyStatement, error) {
	if r.NotBefore.IsZero() {
		r.NotBefore = time.Now()
	}
	if r.Lifetime == 0 {
		r.Lifetime = DefaultKeyLifetime
	}
	if r.Overlap == 0 {
		r.Overlap = DefaultOverlap
	}
	s, err := i.follow(r.Current)
	if err != nil {
		return s, err
	}
	s.Previous, s.Epoch = s.Operational, s.Epoch+1
	s.NotBefore = r.NotBefore.Truncate(time.Millisecond).UTC()
	s.Expires = r.NotBefore.Add(r.Lifetime).Truncate(time.Millisecond).UTC()
	s.Overlap, s.Sealing = r.Overlap.Truncate(time.Millisecond), r.Sealing
	if r.NoOverlap {
		s.Previous, s.Overlap = nil, 0
	}
	return s, nil
}

// follow returns the current statement with the next sequence. In the simple mode, in which there may be none,
// it is about the root key.
func (i *Identity) follow(current []byte) (KeyStatement, error) {
	if !i.IsRoot() {
		return KeyStatement{}, errors.New("this takes the root key, which this identity does not hold")
	}
	s := KeyStatement{ID: i.id, Root: i.public, Operational: i.public}
	if current != nil {
		var err error
		if s, err = OpenKeys(current); err != nil {
			return s, fmt.Errorf("current statement: %w", err)
		}
	}
	switch {
	case s.ID != i.id:
		return s, fmt.Errorf("the current statement is that of agent %s", s.ID.Short())
	case s.Revoked:
		return s, ErrRevoked
	case s.Sequence == maxEpoch, s.Epoch == maxEpoch:
		return s, errors.New("there are no more sequences or epochs")
	}
	s.Sequence++
	return s, nil
}

// Revoke returns a signed statement that ends the agent, for good: no registry that has seen it accepts
// anything of the agent again. i must hold the root key. current is the agent's statement, nil if there is
// none or it is not at hand: a revocation counts whatever its sequence is.
func (i *Identity) Revoke(current []byte) ([]byte, error) {
	s, err := i.follow(current)
	if err != nil {
		return nil, fmt.Errorf("revoke agent %s: %w", i.id.Short(), err)
	}
	if s.NotBefore.IsZero() {
		s.NotBefore = time.Now().Truncate(time.Millisecond).UTC()
		s.Expires = s.NotBefore.Add(DefaultKeyLifetime)
	}
	s.Revoked = true
	return SignKeys(i, s)
}

// WithStatement returns the identity of the agent that the statement is about, with i's key pair as its
// operational key. Nothing of the root key is needed. Errors: those of [OpenKeys], [ErrKeyMismatch] if the
// statement is about another key, [ErrRevoked].
func (i *Identity) WithStatement(raw []byte) (*Identity, error) {
	s, err := OpenKeys(raw)
	if err != nil {
		return nil, err
	}
	if !s.Operational.Equal(i.public) {
		return nil, fmt.Errorf("key statement of agent %s, epoch %d: %w: it is about another operational key", s.ID.Short(), s.Epoch, ErrKeyMismatch)
	}
	if s.Revoked {
		return nil, fmt.Errorf("key statement of agent %s: %w", s.ID.Short(), ErrRevoked)
	}
	return &Identity{private: i.private, public: i.public, id: s.ID, epoch: s.Epoch, statement: string(raw)}, nil
}

// Epoch returns the epoch of the operational key: 0 if that is the root key.
func (i *Identity) Epoch() uint64 { return i.epoch }

// Statement returns the signed statement about the operational key; nil if there is none, as in the simple mode.
// The caller may keep and change it.
func (i *Identity) Statement() []byte {
	if i.statement == "" {
		return nil
	}
	return []byte(i.statement)
}

// CheckTime reports whether the operational key is in force at now; a key without statement always is. The
// error wraps [ErrNotInForce] and says when it would be.
func (i *Identity) CheckTime(now time.Time) error {
	if i.statement == "" {
		return nil
	}
	s, err := OpenKeys([]byte(i.statement))
	if err != nil {
		return err
	}
	return s.CheckTime(now)
}
