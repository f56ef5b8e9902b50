package peertls_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
)

// rotated is an agent's operational identity of the epoch after.
func rotated(t testing.TB, root *identity.Identity, r identity.Rotation) *identity.Identity {
	t.Helper()
	if r.NotBefore.IsZero() {
		r.NotBefore = epoch
	}
	id, err := root.Rotate(r)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAgentsProveOperationalKeys(t *testing.T) {
	server, alice, bob := bobs(t)
	a, b := rotated(t, agent(t, 1), identity.Rotation{}), rotated(t, agent(t, 2), identity.Rotation{Sealing: make([]byte, identity.MaxSealing)})
	if err := errors.Join(alice.Rotate(a), bob.Rotate(b)); err != nil {
		t.Fatal(err)
	}
	atAlice, atBob := shake(t, peertls.Client(alice, bob.ID(), protocol), server.Config())
	if atAlice.err != nil || atBob.err != nil {
		t.Fatalf("at alice: %v, at bob: %v", atAlice.err, atBob.err)
	}
	for name, c := range map[string]struct {
		end  end
		peer *identity.Identity
	}{"alice": {atAlice, b}, "bob": {atBob, a}} {
		p, err := peertls.ProofOf(c.end.state)
		if err != nil || p.ID != c.peer.ID() || !p.Key.Equal(c.peer.PublicKey()) || !bytes.Equal(p.Statement, c.peer.Statement()) {
			t.Errorf("%s sees %s, %v", name, p.ID, err)
		}
	}
	for name, id := range map[string]*identity.Identity{"another agent's": b, "the root key": agent(t, 1)} {
		if err := alice.Rotate(id); err == nil {
			t.Errorf("took %s", name)
		}
	}
}

// TestStatementsInCertificatesThatAreRefused has alice's place taken by certificates with statements that do not make
// them hers.
func TestStatementsInCertificatesThatAreRefused(t *testing.T) {
	root, stranger := agent(t, 1), agent(t, 3)
	good := rotated(t, root, identity.Rotation{})
	forged := good.Statement()
	forged[len(forged)-1] ^= 1
	revoked, err := root.Revoke(good.Statement())
	if err != nil {
		t.Fatal(err)
	}
	expired := rotated(t, root, identity.Rotation{NotBefore: epoch.Add(-2 * time.Hour), Lifetime: time.Hour})
	early := rotated(t, root, identity.Rotation{NotBefore: epoch.Add(time.Hour)})
	for name, c := range map[string]struct {
		by        *identity.Identity
		statement []byte
		want      peertls.Reason
	}{
		"about another key":     {stranger, good.Statement(), peertls.WrongKey},
		"forged":                {good, forged, peertls.WrongKey},
		"garbage":               {good, []byte("garbage"), peertls.WrongKey},
		"too large":             {good, make([]byte, identity.MaxStatement+1), peertls.WrongKey},
		"revoked":               {good, revoked, peertls.WrongKey},
		"expired":               {expired, expired.Statement(), peertls.WrongKey},
		"not yet in force":      {early, early.Statement(), peertls.WrongKey},
		"of a stranger":         {rotated(t, stranger, identity.Rotation{}), nil, peertls.UnknownPeer},
		"missing":               {good, []byte{}, peertls.UnknownPeer},
		"over alice's root key": {root, good.Statement(), peertls.WrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			server, alice, bob := bobs(t)
			client := peertls.Client(alice, bob.ID(), protocol)
			shown := certify(t, c.by, c.statement)
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown, nil }
			_, atBob := shake(t, client, server.Config())
			if atBob.err == nil {
				t.Fatal("accepted")
			}
			if got := peertls.Refuse(atBob.err).Reason; got != c.want {
				t.Errorf("refused as %s for %v, want %s", got, atBob.err, c.want)
			}
		})
	}
}

// certify is a certificate over the key of by with any statement: nil is its own, empty is none.
func certify(t *testing.T, by *identity.Identity, statement []byte) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(time.Hour)}
	if statement == nil {
		statement = by.Statement()
	}
	if len(statement) > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 25, 1426850727}, Value: statement}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, by.PublicKey(), key{by})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key{by}}
}
