package message

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// labelSealing is the label of the sealing header, private and in the protected header. It is critical, so
// that a receiver that does not know of it refuses the message instead of taking the ciphertext for a body.
const labelSealing = -65545

const (
	commitmentSize = 32
	wrappedSize    = contentSecret + chacha20poly1305.Overhead
)

// Details of [ErrMalformed], [ErrUnsupported] and [ErrUnopenable].
var (
	errSealing      = errors.New("the sealing header is not what it has to be")
	errSealingSuite = errors.New("a body is sealed by a suite that this version does not know")
	errNotSealing   = errors.New("this agent opens no sealed bodies")
	errNoSealingKey = errors.New("sealed to none of this agent's sealing keys: to others, or to one that it has forgotten")
	errUnopenable   = errors.New("the body does not open: it was not sealed under this header")
)

// appendSealed appends the first three items of a recipient's array.
func appendSealed(b []byte, key identity.PublicSealingKey, encapsulated []byte) []byte {
	id := key.ID()
	b = cose.AppendUint(b, uint64(key.Suite()))
	b = cose.AppendBytes(b, id[:])
	return cose.AppendBytes(b, encapsulated)
}

// appendSeveral appends what comes before n recipients' arrays.
func appendSeveral(b, commitment []byte, n int) []byte {
	return cose.AppendArray(cose.AppendBytes(cose.AppendArray(b, 2), commitment), n)
}

// sealedReader reads a sealing header: one recipient's array, or the commitment and an array of them.
type sealedReader struct {
	r          cose.Reader
	commitment []byte // nil if there is one recipient
	left       int
	unknown    bool // a suite is
}

// sealedTo is one recipient's part of a sealing header.
type sealedTo struct {
	suite        identity.SealingSuite
	key          identity.SealingKeyID
	encapsulated []byte
	wrapped      []byte // the content secret; nil if there is one recipient
}

func newSealedReader(raw []byte) sealedReader {
	s := sealedReader{r: cose.NewReader(raw), left: 1}
	switch s.r.Array() {
	case 3:
	case 2:
		s.commitment = exactly(&s.r, commitmentSize)
		if s.left = s.r.Array(); s.left < 2 || s.left > MaxSealTo { // one is encoded without
			s.r.Fail(errSealing)
		}
	default:
		s.r.Fail(errSealing)
	}
	return s
}

// next reads the next recipient.
func (s *sealedReader) next() (to sealedTo, ok bool) {
	if s.left == 0 || s.r.Err() != nil {
		return to, false
	}
	s.left--
	if s.commitment != nil && s.r.Array() != 4 {
		s.r.Fail(errSealing)
	}
	suite := s.r.Uint()
	if suite > 0xff || !identity.SealingSuite(suite).IsKnown() {
		s.unknown = s.r.Err() == nil
		s.r.Fail(errSealingSuite)
	}
	to.suite = identity.SealingSuite(suite)
	copy(to.key[:], exactly(&s.r, len(to.key)))
	to.encapsulated = exactly(&s.r, to.suite.EncapsulatedSize())
	if s.commitment != nil {
		to.wrapped = exactly(&s.r, wrappedSize)
	}
	return to, s.r.Err() == nil
}

// checkSealing holds a sealing header to its one encoding: recipients ascend by their keys, so none is twice.
func checkSealing(raw []byte) (Reason, error) {
	s := newSealedReader(raw)
	var last identity.SealingKeyID
	for first := true; ; first = false {
		to, ok := s.next()
		if !ok {
			break
		}
		if !first && compareIDs(last, to.key) >= 0 {
			s.r.Fail(errSealing)
		}
		last = to.key
	}
	err := s.r.End()
	switch {
	case err == nil:
		return 0, nil
	case s.unknown:
		return ErrUnsupported, errSealingSuite
	}
	return ErrMalformed, err
}

// open returns the body of a message whose signature is fine, opened if it is sealed.
func (v *Verifier) open(e *envelope) ([]byte, error) {
	if e.sealing == nil {
		return e.sign1.Payload, nil
	}
	if v.sealing == nil {
		return nil, errNotSealing
	}
	return e.open(v.sealing)
}

// open returns what is sealed in e, which has been decoded.
func (e *envelope) open(keys *identity.SealingKeys) ([]byte, error) {
	s := newSealedReader(e.sealing)
	for {
		to, ok := s.next()
		if !ok {
			return nil, errNoSealingKey
		}
		key, err := keys.Find(to.key)
		if err != nil {
			continue
		}
		if key.Public().Suite() != to.suite {
			return nil, errUnopenable
		}
		return e.openWith(key, to, s.commitment)
	}
}

// openWith opens the body with a key that it is sealed to. The additional data is the protected header as it
// came, so nothing that the header says can be changed: sender, audience, ID, times, mode, recipients.
func (e *envelope) openWith(key *identity.SealingKey, to sealedTo, commitment []byte) ([]byte, error) {
	if to.wrapped == nil {
		return opened(key.Open([]byte(sealInfo), to.encapsulated, e.sign1.Protected, e.sign1.Payload))
	}
	secret, err := key.Open([]byte(sealInfo), to.encapsulated, commitment, to.wrapped)
	if err != nil {
		return nil, errUnopenable
	}
	aead, committed, err := contentKey(secret)
	if err != nil || subtle.ConstantTimeCompare(committed, commitment) != 1 {
		return nil, errUnopenable
	}
	return opened(aead.Open(nil, contentNonce[:], e.sign1.Payload, e.sign1.Protected))
}

// opened makes one error of all ways in which a body does not open.
func opened(body []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, errUnopenable
	}
	return body, nil
}

// Open returns a copy of a sealed message with the body that keys open, for what [ParseUnsafe] read; any other
// message it returns as it is. It checks nothing that ParseUnsafe has not checked, and that includes who
// sealed the body: a [Verifier] opens what it accepts by itself. The error is [ErrUnopenable] with a detail.
func (m *Message) Open(keys *identity.SealingKeys) (*Message, error) {
	if !m.sealed || m.opened {
		return m, nil
	}
	var e envelope
	if reason, err := e.decode(m.raw); reason != 0 {
		return nil, fmt.Errorf("open %s: %w: %w", m, reason, err)
	}
	body, err := e.open(keys)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: %w", m, ErrUnopenable, err)
	}
	c := *m
	c.body, c.opened = body, true
	return &c, nil
}
