package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/internal/cose"
)

// Limits of a [KeyStatement].
const (
	MaxStatement = 4 << 10        // bytes, signed
	MaxSealing   = 2 << 10        // bytes of the sealing key
	MaxOverlap   = 24 * time.Hour // how long the key before may still be used
)

// KeySkew is how far the clocks of two agents may differ: a statement counts that much before its NotBefore.
const KeySkew = 30 * time.Second

// Errors of statements, to be compared with [errors.Is].
var (
	// ErrStatement says that bytes are no key statement, or that a statement says what none may say.
	ErrStatement = errors.New("not a valid key statement")
	// ErrForgedStatement says that the root key that a statement names did not sign it.
	ErrForgedStatement = errors.New("key statement is not signed by its root key")
)

// KeyStatement is what the root key of an agent says about the keys that the agent works with. The root key
// gives the agent its ID and can then be kept away from the network: what the agent signs, it signs with its
// operational key, and others know that key by the statement alone.
//
// Epochs number operational keys. Epoch 0 is the simple mode, in which the root key itself is the operational
// key; it needs no statement. There is one key an epoch, for good.
type KeyStatement struct {
	ID          ID                // of the agent: the root key's hash
	Root        ed25519.PublicKey // signs the statement
	Epoch       uint64            // of Operational; 0 if and only if that is the root key
	Operational ed25519.PublicKey
	Sealing     []byte    // the public key that others seal bodies with, in its own format; may be empty
	NotBefore   time.Time // in whole milliseconds, as Expires
	Expires     time.Time
	Revoked     bool   // no key of the agent counts any more, for good; this needs no sequence
	Sequence    uint64 // from 1 on; of two statements the one with the higher sequence counts

	// Previous is the key of the epoch before, and counts until NotBefore + Overlap, so that what was under way
	// when the key changed is not lost. Without it the key before counts for nothing at once.
	Previous ed25519.PublicKey
	Overlap  time.Duration // up to MaxOverlap, in whole milliseconds
}

const statementTyp = "application/converge-keys"

// Keys of the payload's map.
const (
	fieldRoot = iota + 1
	fieldEpoch
	fieldOperational
	fieldSealing
	fieldNotBefore
	fieldExpires
	fieldRevoked
	fieldSequence
	fieldPrevious
	fieldOverlap
)

// maxMillis is the end of the year 9999.
const maxMillis = 253402300799999

// SignKeys returns the signed bytes of a statement. The identity must hold the root key that the statement
// names. Errors wrap [ErrStatement], [ErrWeakKey] or [ErrKeyMismatch] and say what is wrong with the statement.
func SignKeys(root *Identity, s KeyStatement) ([]byte, error) {
	if !root.IsRoot() || !s.Root.Equal(root.public) || s.ID != root.id {
		return nil, fmt.Errorf("sign key statement of agent %s: %w: it names another root key or ID than the signer's, %s",
			s.ID.Short(), ErrStatement, root.id.Short())
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("sign key statement of agent %s: %w", s.ID.Short(), err)
	}
	return cose.SignStatement(root, s.ID[:], cose.DomainKeys, statementTyp, s.encode()), nil
}

// OpenKeys returns the statement in raw if its root key signed it. Nothing but the one encoding of the
// statement is accepted. It does not look at the clock, nor at what else that root key has said: a
// [Registry] does. Errors: [ErrStatement], [ErrForgedStatement], [ErrWeakKey], [ErrKeyMismatch].
func OpenKeys(raw []byte) (KeyStatement, error) {
	if len(raw) > MaxStatement {
		return KeyStatement{}, fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrStatement, len(raw), MaxStatement)
	}
	signed, err := cose.Parse(raw)
	if err != nil {
		return KeyStatement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	s, err := decodeStatement(signed.Payload)
	if err != nil {
		return KeyStatement{}, err
	}
	if err := signed.VerifyStatement(s.Root, s.ID[:], cose.DomainKeys, statementTyp); err != nil {
		return KeyStatement{}, fmt.Errorf("%w: %w", ErrForgedStatement, err)
	}
	return s, nil
}

// decodeStatement reads a payload. It shares nothing with it.
func decodeStatement(payload []byte) (KeyStatement, error) {
	var s KeyStatement
	r := cose.NewReader(payload)
	r.Fields(func(key int64) { s.read(&r, key) })
	if err := r.End(); err != nil {
		return s, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	s.ID = IDOf(s.Root)
	if err := s.check(); err != nil {
		return s, err
	}
	if !bytes.Equal(s.encode(), payload) { // a zero that is spelled out
		return s, fmt.Errorf("%w: %w", ErrStatement, cose.ErrNotDeterministic)
	}
	return s, nil
}

func (s *KeyStatement) read(r *cose.Reader, key int64) {
	switch key {
	case fieldRoot:
		s.Root = bytes.Clone(r.Bytes())
	case fieldEpoch:
		s.Epoch = r.Uint()
	case fieldOperational:
		s.Operational = bytes.Clone(r.Bytes())
	case fieldSealing:
		s.Sealing = bytes.Clone(r.Bytes())
	case fieldNotBefore:
		s.NotBefore = readMillis(r)
	case fieldExpires:
		s.Expires = readMillis(r)
	case fieldRevoked:
		s.Revoked = r.Uint() == 1
	case fieldSequence:
		s.Sequence = r.Uint()
	case fieldPrevious:
		s.Previous = bytes.Clone(r.Bytes())
	case fieldOverlap:
		s.Overlap = time.Duration(min(r.Uint(), maxMillis)) * time.Millisecond
	default:
		r.Fail(cose.ErrUnexpected)
	}
}

func readMillis(r *cose.Reader) time.Time {
	return time.UnixMilli(int64(min(r.Uint(), maxMillis+1))).UTC()
}

func (s *KeyStatement) encode() []byte {
	w := cose.NewMapWriter(make([]byte, 0, 256+len(s.Sealing)))
	w.Bytes(fieldRoot, s.Root)
	w.Uint(fieldEpoch, s.Epoch)
	w.Bytes(fieldOperational, s.Operational)
	w.Bytes(fieldSealing, s.Sealing)
	w.Int(fieldNotBefore, s.NotBefore.UnixMilli())
	w.Int(fieldExpires, s.Expires.UnixMilli())
	if s.Revoked {
		w.Uint(fieldRevoked, 1)
	}
	w.Uint(fieldSequence, s.Sequence)
	w.Bytes(fieldPrevious, s.Previous)
	w.Uint(fieldOverlap, uint64(s.Overlap/time.Millisecond))
	return w.End()
}

// check holds what is true of every statement.
func (s *KeyStatement) check() error {
	if err := CheckKey(s.ID, s.Root); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	if err := checkPoint(s.Operational); err != nil {
		return fmt.Errorf("operational key: %w", err)
	}
	if err := s.checkPrevious(); err != nil {
		return err
	}
	if fault := s.fault(); fault != "" {
		return fmt.Errorf("%w: %s", ErrStatement, fault)
	}
	return nil
}

func (s *KeyStatement) fault() string {
	switch {
	case s.Epoch > maxEpoch, s.Sequence > maxEpoch, s.Sequence == 0:
		return "epoch or sequence is not up to 2^63-1, or the sequence is zero"
	case (s.Epoch == 0) != s.Operational.Equal(s.Root):
		return "epoch 0 is that of the root key, and of no other"
	case len(s.Sealing) > MaxSealing:
		return fmt.Sprintf("the sealing key has %d bytes where at most %d are allowed", len(s.Sealing), MaxSealing)
	case !isMillis(s.NotBefore), !isMillis(s.Expires), !s.Expires.After(s.NotBefore):
		return "not-before and expiry are not whole milliseconds from 1970 to 9999, one after the other"
	case s.Overlap < 0, s.Overlap > MaxOverlap, s.Overlap%time.Millisecond != 0:
		return fmt.Sprintf("the overlap is not whole milliseconds from 0 to %v", MaxOverlap)
	}
	return ""
}

// maxEpoch keeps numbers within 63 bits, which every CBOR library reads.
const maxEpoch = 1<<63 - 1

func isMillis(t time.Time) bool {
	ms := t.UnixMilli()
	return ms > 0 && ms <= maxMillis && time.UnixMilli(ms).Equal(t)
}

// checkPrevious holds that there is one key an epoch, of which the first is the root key.
func (s *KeyStatement) checkPrevious() error {
	if len(s.Previous) == 0 {
		if s.Overlap != 0 {
			return fmt.Errorf("%w: there is an overlap, and no key before", ErrStatement)
		}
		return nil
	}
	if err := checkPoint(s.Previous); err != nil {
		return fmt.Errorf("previous key: %w", err)
	}
	if s.Epoch == 0 || s.Previous.Equal(s.Operational) || (s.Epoch == 1) != s.Previous.Equal(s.Root) {
		return fmt.Errorf("%w: the key before is not that of the epoch before", ErrStatement)
	}
	return nil
}

// keyAt returns the key of an epoch as of now. The errors are sentinels, unwrapped.
func (s *KeyStatement) keyAt(epoch uint64, now time.Time) (ed25519.PublicKey, error) {
	switch {
	case epoch == s.Epoch:
		if now.Before(s.NotBefore.Add(-KeySkew)) || !now.Before(s.Expires) {
			return nil, ErrNotInForce
		}
		return s.Operational, nil
	case epoch+1 == s.Epoch && len(s.Previous) > 0 && now.Before(s.NotBefore.Add(s.Overlap)):
		return s.Previous, nil
	}
	return nil, ErrEpoch
}

// CheckTime reports whether the operational key that the statement names is in force at now. The error wraps
// [ErrRevoked], or [ErrNotInForce] and says when it would be.
func (s *KeyStatement) CheckTime(now time.Time) error {
	if s.Revoked {
		return fmt.Errorf("agent %s: %w", s.ID.Short(), ErrRevoked)
	}
	if _, err := s.keyAt(s.Epoch, now); err != nil {
		return fmt.Errorf("key of agent %s, epoch %d: %w: it is from %s to %s", s.ID.Short(), s.Epoch, err,
			s.NotBefore.UTC().Format(time.RFC3339), s.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// epochAt returns the epoch that the agent signs with at the time.
func (s *KeyStatement) epochAt(now time.Time) uint64 {
	if len(s.Previous) > 0 && now.Before(s.NotBefore) {
		return s.Epoch - 1
	}
	return s.Epoch
}
