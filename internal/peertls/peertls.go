// Package peertls makes TLS connections between agents: the certificate's key is the agent's key, so
// that whoever holds the other end has proved which agent it is.
//
// TLS 1.3 only (RFC 8446), mutual, without resumption. Each side shows exactly one certificate, self-signed
// over its Ed25519 key (RFC 8410) and valid for a week; it is made anew before it runs out. No authority
// vouches for anything: the peer's ID is the SHA-256 digest of the certificate's key, or of the root key that
// has signed the statement about it, which is then in the certificate. A connection is allowed or refused by
// that ID. The server name (RFC 6066, SNI) says which agent is
// called, so that many agents share one listener.
//
// The agent's key signs three kinds of things, and none can be taken for another: CertificateVerify
// of TLS begins with 64 spaces (RFC 8446, section 4.4.3), a certificate with a DER sequence (0x30), a
// message with a CBOR array (0x84, RFC 9052).
package peertls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Server says whom a listener stands for and whom it lets in. All fields but Now are required.
type Server struct {
	// Credential returns the credential of a local agent, or nil if there is none of that ID.
	Credential func(identity.ID) *Credential
	// Allowed reports whether peer may connect to self. Nobody else may.
	Allowed func(self, peer identity.ID) bool
	// Protocol is what is spoken on the connection (RFC 7301, ALPN), such as "converge/1". Who asks for
	// another, or for none, is refused.
	Protocol string
	// Now is the clock that certificates are held against; nil means time.Now.
	Now func() time.Time
}

// Config returns the configuration of the listener. The handshake refuses, with a [*Refusal], a
// caller of unknown agents and a peer that is not allowed or does not prove its ID. [ID] and [Self]
// then tell who is there. One configuration serves any number of connections.
func (s Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
				return nil, refuse(Version, errors.New("TLS 1.3 is not offered"))
			}
			self, err := ParseServerName(hello.ServerName)
			if err != nil {
				return nil, refuse(UnknownAgent, err)
			}
			credential := s.Credential(self)
			if credential == nil {
				return nil, refuse(UnknownAgent, fmt.Errorf("agent %s is called, which is not here", self))
			}
			return s.config(self, credential), nil
		},
	}
}

func (s Server) config(self identity.ID, credential *Credential) *tls.Config {
	v := verifier{protocol: s.Protocol, now: s.Now, allowed: func(peer identity.ID) error {
		if !s.Allowed(self, peer) {
			return refuse(UnknownPeer, fmt.Errorf("agent %s is not a peer of %s", peer, self))
		}
		return nil
	}}
	c := v.config()
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return credential.certificate() }
	return c
}

// Client returns the configuration for calling peer, and nobody else, in order to speak protocol
// (RFC 7301, ALPN). It is for one address and any number of connections.
func Client(self *Credential, peer identity.ID, protocol string) *tls.Config {
	v := verifier{protocol: protocol, now: self.now, allowed: func(answers identity.ID) error {
		if answers != peer {
			return refuse(WrongKey, fmt.Errorf("agent %s answers where %s is called", answers, peer))
		}
		return nil
	}}
	c := v.config()
	c.ServerName = ServerName(peer)
	c.InsecureSkipVerify = true // no names and authorities: VerifyConnection checks all there is to check
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return self.certificate()
	}
	return c
}

// verifier checks the other end of a connection.
type verifier struct {
	protocol string
	now      func() time.Time
	allowed  func(identity.ID) error
}

func (v verifier) config() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{v.protocol},
		SessionTicketsDisabled:      true,
		VerifyConnection:            v.verify,
		DynamicRecordSizingDisabled: true,
	}
}

// verify runs before the other end's signature over the handshake is checked: only a handshake that
// has ended well proves anything.
func (v verifier) verify(state tls.ConnectionState) error {
	if state.DidResume {
		return refuse(Handshake, errors.New("a session was resumed"))
	}
	if state.NegotiatedProtocol != v.protocol {
		return refuse(Handshake, fmt.Errorf("protocol %q is asked for where %q is spoken", state.NegotiatedProtocol, v.protocol))
	}
	p, err := ProofOf(state)
	if err != nil {
		return err
	}
	if err := v.allowed(p.ID); err != nil { // first, since strangers get no further
		return err
	}
	now := time.Now
	if v.now != nil {
		now = v.now
	}
	return checkCertificate(state.PeerCertificates[0], p, now())
}

// Self returns the agent that a listener was called for.
func Self(state tls.ConnectionState) (identity.ID, error) { return ParseServerName(state.ServerName) }
