package pool

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// Token is what admits to a pool whoever knows it. It never shows in logs, errors or fmt's output.
type Token []byte

// NewToken returns a random token: 43 characters of URL-safe text with 256 bits in them.
func NewToken() Token {
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	return base64.RawURLEncoding.AppendEncode(nil, secret[:])
}

// String returns "token (redacted)".
func (Token) String() string { return "token (redacted)" }

// Format implements [fmt.Formatter], so that no verb reaches the token.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, t.String()) }

// LogValue implements [slog.LogValuer] with the text of [Token.String].
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns an error unless the token is empty: nothing writes a token down.
func (t Token) MarshalText() ([]byte, error) {
	if len(t) == 0 {
		return nil, nil
	}
	return nil, errors.New("marshal token: a pool's token is not written down")
}

// UnmarshalText takes the text for the token, whatever it is.
func (t *Token) UnmarshalText(text []byte) error {
	*t = append(Token(nil), text...)
	return nil
}

const (
	saltSize     = 16
	tokenKeySize = ed25519.PublicKeySize
	proofSize    = ed25519.SignatureSize
)

// The token of a pool is the seed of a signing key, of which the record has the public half: whoever knows
// the token can make the key, and has it sign who joins. So every reader can check that a member knew the
// token, and none has to know it. A token that can be guessed can be guessed from the record, without
// asking anybody; hence MinToken.

// setToken has the pool ask for a token from now on. Where it asks for that one already, nothing changes: those who
// joined with it stay members.
func (d *Definition) setToken(t Token) error {
	if len(t) < MinToken || len(t) > MaxToken {
		return invalid("Token has %d bytes; it has %d to %d, and NewToken makes a good one", len(t), MinToken, MaxToken)
	}
	if same, err := d.admits(t); err != nil || same {
		return err
	}
	d.salt = make([]byte, saltSize)
	rand.Read(d.salt) // never fails
	key, err := d.deriveKey(t)
	if err != nil {
		return err
	}
	d.tokenKey = key.Public().(ed25519.PublicKey)
	return nil
}

// admits reports whether the pool asks for this token.
func (d *Definition) admits(t Token) (bool, error) {
	if d.tokenKey == nil {
		return false, nil
	}
	key, err := d.deriveKey(t)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key.Public().(ed25519.PublicKey), d.tokenKey) == 1, nil
}

// deriveKey returns the key that a token is, in this pool.
func (d *Definition) deriveKey(t Token) (ed25519.PrivateKey, error) {
	info := string(cose.DomainPoolToken) + "\x00" + d.Network + "\x00" + d.Name + "\x00" + string(d.Owner[:])
	seed, err := hkdf.Key(sha256.New, t, d.salt, info, ed25519.SeedSize)
	if err != nil {
		return nil, errors.New("the token cannot be used on this system") // the cause might tell of it
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// prove returns the proof that a member knows the token. Any token but the right one, of whatever length, is
// refused alike.
func (d *Definition) prove(t Token, member identity.ID) ([]byte, error) {
	key, err := d.deriveKey(t)
	if err != nil || subtle.ConstantTimeCompare(key.Public().(ed25519.PublicKey), d.tokenKey) != 1 {
		return nil, fmt.Errorf("%w: the token is not the pool's", ErrNotAdmitted)
	}
	return cose.Sign(signer(key), cose.DomainPoolToken, nil, d.proven(member)).Signature, nil
}

// isProven reports whether the token's key has signed that this agent joins this pool.
func (d *Definition) isProven(m *Membership) bool {
	s := cose.Sign1{Payload: d.proven(m.Member), Signature: m.proof}
	return len(m.proof) == proofSize && s.Verify(d.tokenKey, cose.DomainPoolToken)
}

// proven is what the token's key signs. That key is made for this pool of this owner already.
func (d *Definition) proven(member identity.ID) []byte {
	w := cose.NewMapWriter(nil)
	w.Text(1, d.Network)
	w.Text(2, d.Name)
	w.Bytes(3, d.Owner[:])
	w.Bytes(4, member[:])
	return w.End()
}

type signer ed25519.PrivateKey

func (s signer) Sign(message []byte) []byte { return ed25519.Sign(ed25519.PrivateKey(s), message) }
