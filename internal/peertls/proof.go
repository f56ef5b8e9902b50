package peertls

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
)

// statementOID names the extension of a certificate that holds the signed statement about its key (RFC 5280,
// section 4.2), as identity.OpenKeys reads it. The number is from the arc of UUIDs (X.667), which takes no
// registration. The extension is not critical; certificates over root keys have none.
var statementOID = asn1.ObjectIdentifier{2, 25, 1426850727}

// Proof is who the other end of a connection is. It is proved once the handshake has ended well.
type Proof struct {
	ID        identity.ID
	Key       ed25519.PublicKey // of the certificate
	Statement []byte            // by which that is the agent's key; nil if it is the root key
}

// ProofOf returns who the other end is. The error is a [*Refusal].
func ProofOf(state tls.ConnectionState) (Proof, error) {
	if n := len(state.PeerCertificates); n != 1 {
		return Proof{}, refuse(Certificate, fmt.Errorf("%d certificates are shown where one is due", n))
	}
	c := state.PeerCertificates[0]
	key, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok {
		return Proof{}, refuse(Certificate, fmt.Errorf("the certificate's key is a %T, not Ed25519", c.PublicKey))
	}
	statement := statementOf(c)
	if statement == nil {
		return Proof{ID: identity.IDOf(key), Key: key}, nil
	}
	s, err := identity.OpenKeys(statement)
	if err != nil {
		return Proof{}, refuse(WrongKey, fmt.Errorf("the statement in the certificate: %w", err))
	}
	return Proof{ID: s.ID, Key: key, Statement: statement}, nil
}

func statementOf(c *x509.Certificate) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(statementOID) {
			return e.Value
		}
	}
	return nil
}

// check reports why the key is not the agent's, by what the certificate says alone.
func (p Proof) check(now time.Time) error {
	if p.Statement == nil {
		return identity.CheckKey(p.ID, p.Key)
	}
	s, err := identity.OpenKeys(p.Statement)
	if err != nil {
		return err
	}
	if !s.Operational.Equal(p.Key) {
		return fmt.Errorf("%w: the statement in the certificate is about another key", identity.ErrKeyMismatch)
	}
	return s.CheckTime(now)
}

// ID returns the ID and the key of the other end; see [ProofOf].
func ID(state tls.ConnectionState) (identity.ID, ed25519.PublicKey, error) {
	p, err := ProofOf(state)
	return p.ID, p.Key, err
}
