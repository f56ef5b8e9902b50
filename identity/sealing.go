package identity

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// SealingSuite is a way to seal bodies to a key: a KEM, always with HKDF-SHA256 and ChaCha20-Poly1305, by
// HPKE (RFC 9180). Its number is the first byte of an encoded key. Where a suite is chosen, zero means
// MLKEM768X25519.
type SealingSuite uint8

// The suites.
const (
	// MLKEM768X25519 is the hybrid of ML-KEM-768 and X25519 of draft-ietf-hpke-pq, also known as X-Wing. What
	// is sealed with it stays secret unless both are broken, so a quantum computer of the future is not enough.
	MLKEM768X25519 SealingSuite = 1
	// X25519 is DHKEM(X25519, HKDF-SHA256) of RFC 9180: smaller and faster, and open to whoever records
	// messages today and has a quantum computer later.
	X25519 SealingSuite = 2
)

// ErrSealingSuite says that a suite is none that this version knows.
var ErrSealingSuite = errors.New("unknown sealing suite")

// suiteOf holds what differs between the suites.
var suiteOf = [...]struct {
	name          string
	kem           func() hpke.KEM
	public, encap int // bytes of a public key, of an encapsulated key
}{
	MLKEM768X25519: {"mlkem768-x25519", hpke.MLKEM768X25519, 1184 + 32, 1088 + 32},
	X25519:         {"x25519", func() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }, 32, 32},
}

// ParseSealingSuite reads the name of a suite; "" means MLKEM768X25519.
func ParseSealingSuite(name string) (SealingSuite, error) {
	if name == "" {
		return MLKEM768X25519, nil
	}
	for s := range suiteOf {
		if suite := SealingSuite(s); suite.IsKnown() && suite.String() == name {
			return suite, nil
		}
	}
	return 0, fmt.Errorf("%w %.40q: use %s or %s", ErrSealingSuite, name, MLKEM768X25519, X25519)
}

// IsKnown reports whether this version can seal and open by the suite.
func (s SealingSuite) IsKnown() bool { return s != 0 && int(s) < len(suiteOf) }

// String returns "mlkem768-x25519" or "x25519".
func (s SealingSuite) String() string {
	if !s.IsKnown() {
		return "unknown"
	}
	return suiteOf[s].name
}

// EncapsulatedSize returns the bytes of a key that is encapsulated by the suite, or 0 if it is not known.
func (s SealingSuite) EncapsulatedSize() int {
	if !s.IsKnown() {
		return 0
	}
	return suiteOf[s].encap
}

func (s SealingSuite) kem() hpke.KEM { return suiteOf[s].kem() }

// SealingKeyIDSize is the length of a [SealingKeyID] in bytes.
const SealingKeyIDSize = 16

// SealingKeyID tells sealing keys apart: the first 16 bytes of the SHA-256 digest of an encoded public key.
type SealingKeyID [SealingKeyIDSize]byte

// String returns 32 hexadecimal digits.
func (id SealingKeyID) String() string { return hex.EncodeToString(id[:]) }

// PublicSealingKey is what others seal bodies to. It is immutable and safe for concurrent use. The zero value
// is no key.
type PublicSealingKey struct {
	suite   SealingSuite
	id      SealingKeyID
	key     hpke.PublicKey
	encoded string
}

// ParsePublicSealingKey reads the form of [PublicSealingKey.Bytes]: the byte of the suite and the KEM's public
// key. It refuses any other length, keys that the KEM does not take, and points of low order, to which
// nothing could be sealed. It accepts one encoding of a key. Errors: [ErrSealingSuite], [ErrWeakKey].
//
// A hybrid key takes some 30 µs to read: keep the result.
func ParsePublicSealingKey(encoded []byte) (PublicSealingKey, error) {
	if len(encoded) == 0 {
		return PublicSealingKey{}, fmt.Errorf("sealing key: %w: no bytes", ErrWeakKey)
	}
	suite := SealingSuite(encoded[0])
	if !suite.IsKnown() {
		return PublicSealingKey{}, fmt.Errorf("sealing key: %w %d", ErrSealingSuite, encoded[0])
	}
	if due := 1 + suiteOf[suite].public; len(encoded) != due {
		return PublicSealingKey{}, fmt.Errorf("sealing key: %w: %d bytes where %d are due for %s", ErrWeakKey, len(encoded), due, suite)
	}
	if err := checkX25519(encoded[len(encoded)-32:]); err != nil {
		return PublicSealingKey{}, fmt.Errorf("sealing key: %w: %w", ErrWeakKey, err)
	}
	key, err := suite.kem().NewPublicKey(encoded[1:])
	if err != nil {
		return PublicSealingKey{}, fmt.Errorf("sealing key: %w: %s does not take it", ErrWeakKey, suite)
	}
	return newPublicSealingKey(suite, key), nil
}

func newPublicSealingKey(suite SealingSuite, key hpke.PublicKey) PublicSealingKey {
	encoded := append([]byte{byte(suite)}, key.Bytes()...)
	digest := sha256.Sum256(encoded)
	return PublicSealingKey{suite, SealingKeyID(digest[:SealingKeyIDSize]), key, string(encoded)}
}

// prime is 2^255 - 19, little-endian as RFC 7748 encodes field elements.
var prime = func() (p [32]byte) {
	for i := range p {
		p[i] = 0xff
	}
	p[0], p[31] = 0xed, 0x7f
	return p
}()

// checkX25519 refuses what is not the one encoding of a coordinate (RFC 7748, section 5), and points of low
// order, with which every exchange has the same outcome (section 6.1).
func checkX25519(key []byte) error {
	if !isReduced(key) {
		return errors.New("not the canonical encoding of an X25519 key")
	}
	public, err := ecdh.X25519().NewPublicKey(key)
	if err == nil {
		_, err = probe.ECDH(public)
	}
	if err != nil {
		return errors.New("an X25519 key of low order")
	}
	return nil
}

// isReduced reports whether a little-endian number is less than 2^255 - 19.
func isReduced(key []byte) bool {
	for i := len(prime) - 1; i >= 0; i-- {
		if key[i] != prime[i] {
			return key[i] < prime[i]
		}
	}
	return false
}

// probe is a key that is no secret, to find points of low order with.
var probe = func() *ecdh.PrivateKey {
	key, err := ecdh.X25519().NewPrivateKey([]byte("a key that is used to probe only"))
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	return key
}()

// IsZero reports whether k is no key.
func (k PublicSealingKey) IsZero() bool { return k.key == nil }

// Suite returns the key's suite.
func (k PublicSealingKey) Suite() SealingSuite { return k.suite }

// ID returns the key's ID.
func (k PublicSealingKey) ID() SealingKeyID { return k.id }

// Bytes returns what [ParsePublicSealingKey] reads: 1,217 bytes for MLKEM768X25519, 33 for X25519.
func (k PublicSealingKey) Bytes() []byte { return []byte(k.encoded) }

// String returns the suite and the first eight digits of the ID.
func (k PublicSealingKey) String() string {
	if k.IsZero() {
		return "no sealing key"
	}
	return fmt.Sprintf("%s sealing key %x", k.suite, k.id[:4])
}

// NewSender begins an HPKE exchange (RFC 9180, section 5.1.1) with the holder of k: it returns the
// encapsulated key, Suite().EncapsulatedSize() bytes, and the context that seals. Each call is a new secret.
func (k PublicSealingKey) NewSender(info []byte) (encapsulated []byte, s *hpke.Sender, err error) {
	if k.IsZero() {
		return nil, nil, fmt.Errorf("seal: %w: no key", ErrWeakKey)
	}
	encapsulated, s, err = hpke.NewSender(k.key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info)
	if err != nil {
		return nil, nil, fmt.Errorf("seal to %s: %w", k, err)
	}
	return encapsulated, s, nil
}

// SealingKey is a private key that opens what was sealed to its public one. It is immutable and safe for
// concurrent use. It never prints itself: every fmt verb and slog show the public key's ID only.
type SealingKey struct {
	private func() hpke.PrivateKey // a func, since fmt finds its way through everything else in a copy
	public  PublicSealingKey
}

// GenerateSealingKey makes a new key from the system's random source; suite 0 means MLKEM768X25519.
func GenerateSealingKey(suite SealingSuite) (*SealingKey, error) {
	if suite == 0 {
		suite = MLKEM768X25519
	}
	if !suite.IsKnown() {
		return nil, fmt.Errorf("generate sealing key: %w %d", ErrSealingSuite, suite)
	}
	private, err := suite.kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generate sealing key: %w", err)
	}
	return newSealingKey(suite, private), nil
}

// SealingKeyFrom returns the key of 32 bytes, which are the KEM's private key as RFC 9180 and
// draft-ietf-hpke-pq serialise it. They are the whole secret.
func SealingKeyFrom(suite SealingSuite, secret []byte) (*SealingKey, error) {
	if !suite.IsKnown() {
		return nil, fmt.Errorf("sealing key: %w %d", ErrSealingSuite, suite)
	}
	private, err := suite.kem().NewPrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %d bytes that %s does not take", len(secret), suite) // the cause might print them
	}
	return newSealingKey(suite, private), nil
}

func newSealingKey(suite SealingSuite, private hpke.PrivateKey) *SealingKey {
	return &SealingKey{
		private: func() hpke.PrivateKey { return private },
		public:  newPublicSealingKey(suite, private.PublicKey()),
	}
}

// Public returns the public key.
func (k *SealingKey) Public() PublicSealingKey { return k.public }

// ErrOpen says that something sealed does not open: it was sealed to another key, or altered, or it belongs
// to another context. It says no more on purpose.
var ErrOpen = errors.New("does not open")

// Open returns what the first Seal of an HPKE sender of the public key sealed. Anything else is [ErrOpen].
func (k *SealingKey) Open(info, encapsulated, aad, ciphertext []byte) ([]byte, error) {
	r, err := hpke.NewRecipient(encapsulated, k.private(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info)
	if err != nil {
		return nil, ErrOpen
	}
	opened, err := r.Open(aad, ciphertext)
	if err != nil {
		return nil, ErrOpen
	}
	return opened, nil
}

// String returns "private" and what the public key prints.
func (k *SealingKey) String() string { return "private " + k.public.String() }

// Format implements [fmt.Formatter], so that no verb reaches the private key.
func (k *SealingKey) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue implements [slog.LogValuer] with the public key's ID.
func (k *SealingKey) LogValue() slog.Value { return slog.StringValue(k.public.id.String()) }

// MarshalText returns an error: a private key is only ever written to the file of [SealingKeys].
func (k *SealingKey) MarshalText() ([]byte, error) {
	return nil, fmt.Errorf("marshal %s: a private key is only written by SealingKeys", k)
}
