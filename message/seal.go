package message

import (
	"bytes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// MaxSealTo bounds the agents that one message is sealed to.
const MaxSealTo = 32

const (
	sealInfo      = "converge/seal/v1"
	bodyInfo      = sealInfo + " body"       // of the key of a body that is sealed to several
	commitInfo    = sealInfo + " commitment" // of what tells that key from others
	sealTag       = chacha20poly1305.Overhead
	contentSecret = 32
)

// sealing is what a message that is to be sealed carries until it is signed. The body itself is encrypted
// when the protected header is final, since that is the additional data: see [Message.payload].
type sealing struct {
	header []byte // the value of the sealing header
	seal   func(aad, body []byte) ([]byte, error)
	err    error
}

// sealingHeads is more than the sealing header takes beside its value: label, length, and the critical header.
const sealingHeads = 24

// overhead bounds what sealing adds to an envelope; 0 for none.
func (s *sealing) overhead() int {
	if s == nil {
		return 0
	}
	return len(s.header) + sealingHeads + sealTag
}

// prepareSealing does all of sealing that is slow and can fail, in the order of its cost: recipients' keys,
// sizes, encapsulation.
func (s *Signer) prepareSealing(m *Message, d *Draft) error {
	if !s.wantsSealing(d) {
		return nil
	}
	keys, err := s.sealingKeys(d)
	if err != nil {
		return draftError("%w", err)
	}
	m.sealing, m.sealed, m.opened = &sealing{header: unencapsulated(keys)}, true, true
	if err := s.checkSealedSize(m); err != nil {
		return err
	}
	if m.sealing, err = newSealing(keys); err != nil {
		return draftError("%w", err)
	}
	m.body = bytes.Clone(m.body)
	return nil
}

// sealingKeys returns the keys of all recipients, in the order of their IDs.
func (s *Signer) sealingKeys(d *Draft) ([]identity.PublicSealingKey, error) {
	field, to := "Draft.SealTo", d.SealTo
	if !d.To.IsZero() {
		field, to = "Draft.To", []identity.ID{d.To}
	}
	keys := make([]identity.PublicSealingKey, len(to))
	for i, id := range to {
		key, err := s.recipients.SealingKey(id)
		if err == nil && key.IsZero() {
			err = identity.ErrNoSealingKey
		}
		if err != nil {
			return nil, fmt.Errorf("%s: seal to agent %s: %w", field, id, err)
		}
		keys[i] = key
	}
	slices.SortFunc(keys, func(a, b identity.PublicSealingKey) int { return compareIDs(a.ID(), b.ID()) })
	for i := range keys[1:] {
		if keys[i].ID() == keys[i+1].ID() {
			return nil, fmt.Errorf("%s: two of the agents have the same %s", field, keys[i])
		}
	}
	return keys, nil
}

func compareIDs(a, b identity.SealingKeyID) int { return bytes.Compare(a[:], b[:]) }

// checkSealedSize refuses what would become too large, before any work is done for it.
func (s *Signer) checkSealedSize(m *Message) error {
	m.epoch = s.identity.Load().Epoch()
	payload := len(m.body) + sealTag
	header := appendHeader(make([]byte, 0, 512+m.sealing.overhead()), m, false)
	if len(header)+payload+cose.Overhead <= s.maxSize {
		return nil
	}
	sign1 := cose.Sign1{Protected: header, Payload: make([]byte, payload), Signature: make([]byte, ed25519.SignatureSize)}
	if size := len(sign1.Append(nil)); size > s.maxSize {
		return draftError("Draft.Body: sealed, with its envelope, %w", sizeError(size, s.maxSize))
	}
	return nil
}

// newSealing encapsulates a secret to each of the keys.
func newSealing(keys []identity.PublicSealingKey) (*sealing, error) {
	if len(keys) > 1 {
		return sealToSeveral(keys)
	}
	encapsulated, sender, err := keys[0].NewSender([]byte(sealInfo))
	if err != nil {
		return nil, err
	}
	header := appendSealed(cose.AppendArray(nil, 3), keys[0], encapsulated)
	return &sealing{header: header, seal: sender.Seal}, nil
}

// sealToSeveral seals one secret to each of the keys. The body's key and the commitment are derived from it.
func sealToSeveral(keys []identity.PublicSealingKey) (*sealing, error) {
	secret := make([]byte, contentSecret)
	rand.Read(secret)
	aead, commitment, err := contentKey(secret)
	if err != nil {
		return nil, err
	}
	header := appendSeveral(nil, commitment, len(keys))
	for _, key := range keys {
		encapsulated, sender, err := key.NewSender([]byte(sealInfo))
		if err != nil {
			return nil, err
		}
		wrapped, err := sender.Seal(commitment, secret)
		if err != nil {
			return nil, fmt.Errorf("seal to %s: %w", key, err)
		}
		header = cose.AppendBytes(appendSealed(cose.AppendArray(header, 4), key, encapsulated), wrapped)
	}
	seal := func(aad, body []byte) ([]byte, error) { return aead.Seal(nil, contentNonce[:], body, aad), nil }
	return &sealing{header: header, seal: seal}, nil
}

// contentNonce is fixed, since a content key seals one body.
var contentNonce [chacha20poly1305.NonceSize]byte

// contentKey derives the body's key from a content secret, and the commitment, without which a sender could
// make one ciphertext say different things to different recipients.
func contentKey(secret []byte) (aead cipher.AEAD, commitment []byte, err error) {
	key, err := hkdf.Expand(sha256.New, secret, bodyInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, nil, err
	}
	if commitment, err = hkdf.Expand(sha256.New, secret, commitInfo, commitmentSize); err != nil {
		return nil, nil, err
	}
	aead, err = chacha20poly1305.New(key)
	return aead, commitment, err
}

// payload returns the body as it is sent under a protected header. It may be called once.
func (m *Message) payload(header []byte) []byte {
	if m.sealing == nil {
		return m.body
	}
	payload, err := m.sealing.seal(header, m.body)
	m.sealing.err = err
	return payload
}

// endSealing lets go of what was needed to seal m, whose signing ended with err, and returns what failed.
func (s *Signer) endSealing(m *Message, err error) error {
	if m.sealing == nil {
		return err
	}
	if err == nil && m.sealing.err != nil {
		err = draftError("seal: %w", m.sealing.err)
	}
	m.sealing = nil
	if err == nil {
		s.sealed.Inc()
	}
	return err
}

// unencapsulated returns a sealing header of the right length whose secrets are all zero.
func unencapsulated(keys []identity.PublicSealingKey) []byte {
	several := len(keys) > 1
	size := commitmentSize + 16
	for _, key := range keys {
		size += key.Suite().EncapsulatedSize() + identity.SealingKeyIDSize + wrappedSize + 16
	}
	b := make([]byte, 0, size)
	if several {
		b = appendSeveral(b, make([]byte, commitmentSize), len(keys))
	}
	for _, key := range keys {
		items := 3
		if several {
			items = 4
		}
		b = appendSealed(cose.AppendArray(b, items), key, make([]byte, key.Suite().EncapsulatedSize()))
		if several {
			b = cose.AppendBytes(b, make([]byte, wrappedSize))
		}
	}
	return b
}
