package websocket

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// agent returns the same identity for the same number.
func agent(t testing.TB, n byte) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// agreement returns what both sides of a challenge sign, in the client's role.
func agreement(t testing.TB) (client, server *identity.Identity, s statement) {
	t.Helper()
	client, server = agent(t, 1), agent(t, 2)
	return client, server, statement{
		role: roleClient, client: partyOf(client), server: partyOf(server),
		clientNonce: [32]byte{1}, serverNonce: [32]byte{2}, host: "agents.example.org", binding: make([]byte, bindingSize),
	}
}

func TestProofOfAnotherConnectionIsRefused(t *testing.T) {
	client, server, want := agreement(t)
	stranger := agent(t, 3)
	for _, c := range []struct {
		name  string
		alter func(*statement)
		by    *identity.Identity
		err   error
	}{
		{"honest", func(*statement) {}, client, nil},
		{"another client nonce", func(s *statement) { s.clientNonce[31]++ }, client, errForeignProof},
		{"another server nonce", func(s *statement) { s.serverNonce[31]++ }, client, errForeignProof},
		{"another server", func(s *statement) { s.server = partyOf(stranger) }, client, errForeignProof},
		{"another server's key", func(s *statement) { s.server.key = stranger.PublicKey() }, client, errForeignProof},
		{"another client", func(s *statement) { s.client = partyOf(stranger) }, stranger, errForeignProof},
		{"another host", func(s *statement) { s.host = "example.org" }, client, errForeignProof},
		{"the server's own proof sent back", func(s *statement) { s.role = roleServer }, server, errForeignProof},
		{"signed by a stranger", func(*statement) {}, stranger, errBadProof},
		{"signed by the server", func(*statement) {}, server, errBadProof},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := want
			c.alter(&s)
			if _, err := openProof(s.sign(c.by), want, time.Now()); !errors.Is(err, c.err) {
				t.Errorf("openProof: %v, want %v", err, c.err)
			}
		})
	}
}

func TestEverySingleBitFlipOfAProofIsRefused(t *testing.T) {
	client, _, want := agreement(t)
	proof := want.sign(client)
	for i := range len(proof) * 8 {
		flipped := bytes.Clone(proof)
		flipped[i/8] ^= 1 << (i % 8)
		if _, err := openProof(flipped, want, time.Now()); err == nil {
			t.Fatalf("a proof with bit %d flipped was accepted", i)
		}
	}
	for n := range proof {
		if _, err := openProof(proof[:n], want, time.Now()); err == nil {
			t.Fatalf("a proof of %d bytes was accepted cut to %d", len(proof), n)
		}
	}
}

// TestKeyUnderForeignIDProvesNothing is the attack of a server that shows a key of its own for the ID that
// the client asked for.
func TestKeyUnderForeignIDProvesNothing(t *testing.T) {
	client, server, s := agreement(t)
	mallory := agent(t, 3)
	s.role, s.server.key = roleServer, mallory.PublicKey()
	id := server.ID()
	forged := cose.SignStatement(mallory, id[:], cose.DomainHandshake, proofType, s.append(nil))
	want := statement{role: roleServer, client: partyOf(client), server: party{id: server.ID()}, clientNonce: s.clientNonce, host: s.host}
	if _, err := openProof(forged, want, time.Now()); !errors.Is(err, identity.ErrKeyMismatch) {
		t.Errorf("openProof: %v, want ErrKeyMismatch", err)
	}
}

// TestProofIsNoMessageAndNoMessageIsAProof: each has a domain of its own.
func TestProofIsNoMessageAndNoMessageIsAProof(t *testing.T) {
	client, _, want := agreement(t)
	id := client.ID()
	for _, domain := range []cose.Domain{cose.DomainMessage, cose.DomainDescriptor, cose.DomainKeys, cose.DomainDelegation, cose.DomainReceipt, cose.DomainBallot, cose.DomainTask, cose.DomainResult} {
		other := cose.SignStatement(client, id[:], domain, proofType, want.append(nil))
		if _, err := openProof(other, want, time.Now()); !errors.Is(err, errBadProof) {
			t.Errorf("what was signed under %s opened as a proof: %v", domain, err)
		}
	}
	if _, err := openProof(cose.SignStatement(client, id[:], cose.DomainHandshake, "application/other", want.append(nil)), want, time.Now()); !errors.Is(err, errBadProof) {
		t.Errorf("a statement of another type opened as a proof: %v", err)
	}
	keys := identity.NewRegistry(0)
	if err := keys.Register(id, client.PublicKey()); err != nil {
		t.Fatal(err)
	}
	v, err := message.NewVerifier(message.VerifierConfig{Self: want.server.id, Network: "test", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := v.Verify(want.sign(client)); err == nil {
		t.Errorf("a proof was accepted as the message %s", m)
	}
}

func TestGreetingRefuses(t *testing.T) {
	client, server, _ := agreement(t)
	honest := greeting{client: partyOf(client), server: server.ID(), nonce: [32]byte{1}, host: "h"}
	whole := honest.append(nil)
	if _, err := parseGreeting(whole); err != nil {
		t.Fatal(err)
	}
	long := honest
	long.host = strings.Repeat("a", maxHost+1)
	short := honest
	short.client.key = short.client.key[:31]
	for name, data := range map[string][]byte{
		"nothing": nil, "garbage": []byte("GET / HTTP/1.1"), "version 2": append([]byte{whole[0], 2}, whole[2:]...),
		"trailing byte": append(bytes.Clone(whole), 0), "cut": whole[:len(whole)-1],
		"host too long": long.append(nil), "short key": short.append(nil),
	} {
		if _, err := parseGreeting(data); !errors.Is(err, errMalformedChallenge) {
			t.Errorf("%s: %v, want %v", name, err, errMalformedChallenge)
		}
	}
}

// FuzzChallenge holds the decoders of what strangers send first: what they accept has one encoding, and a
// proof that nobody signed is never accepted.
func FuzzChallenge(f *testing.F) {
	client, server, want := agreement(f)
	proof := want.sign(client)
	f.Add(proof)
	f.Add(want.append(nil))
	f.Add(greeting{client: partyOf(client), server: server.ID(), host: "h"}.append(nil))
	learn := want
	learn.role, learn.server.key = roleServer, nil
	asServer := want
	asServer.role = roleServer
	answer := asServer.sign(server)
	f.Add(answer)
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, err := parseGreeting(data); err == nil && !bytes.Equal(g.append(nil), data) {
			t.Errorf("greeting %x is read as %x", data, g.append(nil))
		}
		if s, err := parseStatement(data); err == nil && !bytes.Equal(s.append(nil), data) {
			t.Errorf("statement %x is read as %x", data, s.append(nil))
		}
		if _, err := openProof(data, want, time.Now()); err == nil && !bytes.Equal(data, proof) {
			t.Errorf("accepted what nobody signed: %x", data)
		}
		if _, err := openProof(data, learn, time.Now()); err == nil && !bytes.Equal(data, answer) {
			t.Errorf("accepted what nobody signed: %x", data)
		}
	})
}
