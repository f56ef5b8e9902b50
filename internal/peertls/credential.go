package peertls

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
)

const (
	// Lifetime is how long a certificate is valid.
	Lifetime = 7 * 24 * time.Hour
	// Skew is how far the clocks of two agents may differ.
	Skew = 5 * time.Minute
	// renewal is what is left of a certificate's life when it is replaced. Connections outlive their
	// certificates: a certificate matters only during the handshake.
	renewal = 24 * time.Hour
)

// Credential is an agent's key together with its current certificate, which is made when it is first
// needed, and anew a day before it runs out. It is safe for concurrent use. It never prints the key.
type Credential struct {
	agent identity.ID
	now   func() time.Time

	mu      sync.Mutex
	id      *identity.Identity
	current *tls.Certificate
}

// NewCredential returns the credential of an agent; now is the clock, nil means time.Now.
func NewCredential(id *identity.Identity, now func() time.Time) *Credential {
	if now == nil {
		now = time.Now
	}
	return &Credential{agent: id.ID(), id: id, now: now}
}

// ID returns the agent's ID.
func (c *Credential) ID() identity.ID { return c.agent }

// Identity returns the agent's identity as it is now.
func (c *Credential) Identity() *identity.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Rotate has c go on with another key of the same agent, of no earlier epoch. Handshakes that have begun may still
// show the one before.
func (c *Credential) Rotate(id *identity.Identity) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id.ID() != c.agent {
		return fmt.Errorf("rotate the key of agent %s: it is that of agent %s", c.agent.Short(), id.ID().Short())
	}
	if id.Epoch() < c.id.Epoch() {
		return fmt.Errorf("rotate the key of agent %s: it is of epoch %d, and %d is in use", c.agent.Short(), id.Epoch(), c.id.Epoch())
	}
	c.id, c.current = id, nil
	return nil
}

// String returns the agent's name, not its key.
func (c *Credential) String() string { return "credential of identity " + c.agent.Short() }

func (c *Credential) certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.current != nil && !now.Before(c.current.Leaf.NotBefore) && now.Before(c.current.Leaf.NotAfter.Add(-renewal)) {
		return c.current, nil
	}
	made, err := issue(c.id, now)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", c.id, err)
	}
	c.current = made
	return made, nil
}

func issue(id *identity.Identity, now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random(16)),
		Subject:      pkix.Name{CommonName: ServerName(id.ID())[:labelSize]},
		DNSNames:     []string{ServerName(id.ID())},
		NotBefore:    now.Add(-Skew),
		NotAfter:     now.Add(Lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if raw := id.Statement(); raw != nil {
		template.ExtraExtensions = []pkix.Extension{{Id: statementOID, Value: raw}}
	}
	key := signer{id}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	b[0] = b[0]&0x7f | 0x40 // positive, and of full length
	return b
}

// signer is an [identity.Identity] as the standard library wants its keys.
type signer struct{ id *identity.Identity }

func (s signer) Public() crypto.PublicKey { return s.id.PublicKey() }

func (s signer) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.Hash(0) {
		return nil, errors.New("an agent's key signs messages, not digests")
	}
	return s.id.Sign(message), nil
}

// checkCertificate reports why a certificate is not one that the agent would show who shows it.
func checkCertificate(c *x509.Certificate, p Proof, now time.Time) error {
	id, key := p.ID, p.Key
	if now.Before(c.NotBefore.Add(-Skew)) || now.After(c.NotAfter.Add(Skew)) {
		return refuse(Certificate, fmt.Errorf("the certificate of agent %s is valid from %s to %s", id,
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339)))
	}
	if err := p.check(now); err != nil {
		return refuse(WrongKey, fmt.Errorf("agent %s: %w", id, err))
	}
	if c.SignatureAlgorithm != x509.PureEd25519 || !ed25519.Verify(key, c.RawTBSCertificate, c.Signature) {
		return refuse(Certificate, fmt.Errorf("the certificate of agent %s is not signed by its own key", id))
	}
	return nil
}
