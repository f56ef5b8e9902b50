// Package identity gives every agent a key and a name that derives from it.
//
// An [Identity] is an Ed25519 key pair (RFC 8032). Its [ID] is the SHA-256 digest of the public key,
// so nobody can choose it and nobody has to be asked for it. A [Registry] maps the IDs that a process
// knows to their public keys; it believes nothing that it cannot recompute. A key file keeps an
// Identity between runs.
//
// An ID outlives its keys. The key that it derives from, the root key, can sign a [KeyStatement] about another
// key, the operational one, and from then on be kept elsewhere: [Identity.Rotate] changes the operational key,
// [Identity.Revoke] ends the agent. A Registry follows the statement with the highest sequence, and never one
// that is older.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
)

// Identity is an agent's ID with the key pair that it signs with, its operational key. It is immutable and safe for concurrent use. It never prints its
// private key: every fmt verb and slog show the ID only.
type Identity struct {
	private func() ed25519.PrivateKey // a func, since fmt finds its way through everything else in a copy
	public  ed25519.PublicKey
	id      ID

	epoch     uint64
	statement string // signed; "" without one
}

// Generate makes a new identity from the system's random source.
func Generate() (*Identity, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return fromPrivate(private), nil
}

// FromSeed returns the identity of a 32-byte Ed25519 seed (RFC 8032, section 5.1.5). The seed is the
// whole secret: whoever knows it is the agent.
func FromSeed(seed []byte) (*Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("identity seed: %d bytes where %d are due", len(seed), ed25519.SeedSize)
	}
	return fromPrivate(ed25519.NewKeyFromSeed(seed)), nil
}

func fromPrivate(private ed25519.PrivateKey) *Identity {
	public := private.Public().(ed25519.PublicKey)
	return &Identity{
		private: func() ed25519.PrivateKey { return private },
		public:  public,
		id:      IDOf(public),
	}
}

// ID returns the agent's ID, which derives from its root key.
func (i *Identity) ID() ID { return i.id }

// PublicKey returns the 32-byte operational public key; the caller may keep and change it.
func (i *Identity) PublicKey() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), i.public...)
}

// Sign returns the 64-byte Ed25519 signature of message by the operational key. It adds no domain of its own: callers sign
// structures that carry one, as Converge's envelopes do (docs/wire.md).
func (i *Identity) Sign(message []byte) []byte { return ed25519.Sign(i.private(), message) }

// String returns "identity" and the short ID.
func (i *Identity) String() string { return "identity " + i.id.Short() }

// Format implements [fmt.Formatter], so that no verb reaches the private key.
func (i *Identity) Format(f fmt.State, _ rune) { io.WriteString(f, i.String()) }

// LogValue implements [slog.LogValuer] with the ID.
func (i *Identity) LogValue() slog.Value { return slog.StringValue(i.id.String()) }

// MarshalText returns an error: an identity holds a secret and is only ever written to a key file.
func (i *Identity) MarshalText() ([]byte, error) {
	return nil, fmt.Errorf("marshal %s: a private key is only written by WriteKeyFile", i)
}
