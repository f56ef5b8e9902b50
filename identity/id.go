package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// IDSize is the length of an [ID] in bytes.
const IDSize = sha256.Size

// ID names an agent: the SHA-256 digest of its 32-byte Ed25519 public key (the key as RFC 8032
// encodes it). IDs are public, comparable and safe as map keys. The zero ID names nobody.
type ID [IDSize]byte

// IDOf returns the ID that key hashes to. It says nothing about the quality of the key;
// [Registry.Register] does.
func IDOf(key ed25519.PublicKey) ID { return sha256.Sum256(key) }

// ParseID reads the text form of an ID: exactly 64 lower-case hexadecimal digits.
func ParseID(text string) (ID, error) {
	var id ID
	err := id.UnmarshalText([]byte(text))
	return id, err
}

// IsZero reports whether id is the zero ID, which names nobody.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the text form: 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first eight digits of the text form, for people to read. Eight digits are easy
// to collide on purpose: never compare or look up by them.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// MarshalText implements [encoding.TextMarshaler] with the form of [ID.String].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what [ParseID] accepts and leaves
// id alone on error.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != 2*IDSize {
		return fmt.Errorf("agent ID %.80q: %d characters where %d are due", text, len(text), 2*IDSize)
	}
	var parsed ID
	for i, c := range text {
		var nibble byte
		switch {
		case '0' <= c && c <= '9':
			nibble = c - '0'
		case 'a' <= c && c <= 'f':
			nibble = c - 'a' + 10
		default:
			return fmt.Errorf("agent ID %q: character %d is not a lower-case hexadecimal digit", text, i+1)
		}
		parsed[i/2] |= nibble << (4 * (1 - i%2))
	}
	*id = parsed
	return nil
}
