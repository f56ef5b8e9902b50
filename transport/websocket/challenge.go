package websocket

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/mesh"
)

// The challenge is how two agents prove who they are where TLS cannot do it, because it ends at a
// reverse proxy that holds a public certificate. It is the first thing on the connection after the
// upgrade, three binary messages of WebSocket:
//
//	client → server  greeting   [1, client ID, client key, server ID, client nonce, host], unsigned
//	server → client  proof      COSE_Sign1 by the server's key
//	client → server  proof      COSE_Sign1 by the client's key
//
// Both proofs are signed under the domain converge/handshake/v1 and type application/converge-handshake
// over
//
//	[1, role, client ID, client key, server ID, server key, client nonce, server nonce, host, binding]
//
// A key is 32 bytes, or, if it is an operational key, the signed statement about it (docs/wire.md),
// by which it belongs to the ID.
//
// role is 1 in the client's and 2 in the server's, host is what the client dialled, as in its URL, and
// binding is a TLS exporter value (RFC 8446, section 7.5) of 32 bytes or nothing: the client's is that of
// its own TLS connection, the server's that of its own if the client is at the other end of it, and
// nothing if there is a proxy between. Each side checks every field against what it knows itself.
//
// What that gives against somebody in the middle, who may be a member of the network with a key:
//   - Replay: both nonces are in both proofs, so a recorded proof is good for one connection only.
//   - Relay: a proof for the server M names M. Passed on to a server S it does not verify, because S
//     wants its own ID in it. So nobody can log in at S as a client that meant to talk to M.
//   - Reflection: the role is signed, so that a proof does not come back as the other side's.
//   - A name that the server does not have: host is checked, see Config.Hosts.
//   - TLS that ends where the server does not expect it: if the server sees the client's TLS itself, it
//     says so by its binding, and a connection with another binding at its other end is refused by both.
//
// What it cannot give: a proxy that ends TLS, because it is meant to or since somebody has given it a
// certificate for the host, and passes the proofs on, sees all bytes after them, and may drop, delay, repeat
// or insert some. The messages that it inserts are worth nothing, since each is signed and has a place in a
// replay window; but it can break the connection, use up the connection's rate, subscribe to topics in the
// client's name, and read what is not sealed. The proofs themselves are of no use elsewhere.
const (
	challengeVersion = 1
	nonceSize        = 32
	bindingSize      = 32
	maxHost          = 260 // 253 octets of a name, a colon, a port
	maxChallenge     = 1024 + 2*identity.MaxStatement
	proofType        = "application/converge-handshake"
	exporterLabel    = "EXPORTER-converge-handshake-v1"
)

var (
	errMalformedChallenge = errors.New("malformed challenge")
	errForeignProof       = errors.New("the proof is not for this connection")
	errBinding            = errors.New("TLS ends between the two agents, at something that is not named in TrustedProxies")
	errBadProof           = errors.New("the signature of the proof does not verify")
)

// role is the side that signs a proof.
type role uint64

const (
	roleClient role = 1
	roleServer role = 2
)

// party is one side of a challenge.
type party struct {
	id  identity.ID
	key []byte // as it is shown: the root key, or the statement about the operational key
}

func partyOf(id *identity.Identity) party {
	if raw := id.Statement(); raw != nil {
		return party{id.ID(), raw}
	}
	return party{id.ID(), id.PublicKey()}
}

// statement returns the signed statement about the key, nil if it is the root key.
func (p party) statement() []byte {
	if len(p.key) == ed25519.PublicKeySize {
		return nil
	}
	return p.key
}

// into returns the stream with the party, whose proof was opened, at the other end.
func (p party) into(s mesh.Stream) mesh.Stream {
	s.Peer, s.Key, s.Statement = p.id, p.key, p.statement()
	if s.Statement != nil {
		statement, _ := identity.OpenKeys(s.Statement) // it was opened before
		s.Key = statement.Operational
	}
	return s
}

// public returns the key if it is that of the ID, at now if there is a time to it.
func (p party) public(now time.Time) (ed25519.PublicKey, error) {
	if p.statement() == nil {
		return p.key, identity.CheckKey(p.id, p.key)
	}
	s, err := identity.OpenKeys(p.key)
	if err != nil {
		return nil, err
	}
	if s.ID != p.id {
		return nil, fmt.Errorf("%w: the statement is that of agent %s", identity.ErrKeyMismatch, s.ID)
	}
	return s.Operational, s.CheckTime(now)
}

// greeting opens a challenge.
type greeting struct {
	client party
	server identity.ID
	nonce  [nonceSize]byte
	host   string
}

func (g greeting) append(b []byte) []byte {
	b = cose.AppendArray(b, 6)
	b = cose.AppendUint(b, challengeVersion)
	b = cose.AppendBytes(b, g.client.id[:])
	b = cose.AppendBytes(b, g.client.key)
	b = cose.AppendBytes(b, g.server[:])
	b = cose.AppendBytes(b, g.nonce[:])
	return cose.AppendText(b, g.host)
}

func parseGreeting(data []byte) (greeting, error) {
	var g greeting
	r := openChallenge(data, 6)
	g.client = readParty(&r)
	readFixed(&r, g.server[:])
	readFixed(&r, g.nonce[:])
	g.host = readHost(&r)
	if r.End() != nil {
		return greeting{}, errMalformedChallenge
	}
	return g, nil
}

// statement is what a proof signs.
type statement struct {
	role                     role
	client, server           party
	clientNonce, serverNonce [nonceSize]byte
	host                     string
	binding                  []byte // empty or of bindingSize
}

func (s statement) append(b []byte) []byte {
	b = cose.AppendArray(b, 10)
	b = cose.AppendUint(b, challengeVersion)
	b = cose.AppendUint(b, uint64(s.role))
	b = cose.AppendBytes(b, s.client.id[:])
	b = cose.AppendBytes(b, s.client.key)
	b = cose.AppendBytes(b, s.server.id[:])
	b = cose.AppendBytes(b, s.server.key)
	b = cose.AppendBytes(b, s.clientNonce[:])
	b = cose.AppendBytes(b, s.serverNonce[:])
	b = cose.AppendText(b, s.host)
	return cose.AppendBytes(b, s.binding)
}

func parseStatement(data []byte) (statement, error) {
	var s statement
	r := openChallenge(data, 10)
	s.role = role(r.Uint())
	s.client = readParty(&r)
	s.server = readParty(&r)
	readFixed(&r, s.clientNonce[:])
	readFixed(&r, s.serverNonce[:])
	s.host = readHost(&r)
	s.binding = bytes.Clone(r.Bytes())
	if n := len(s.binding); n != 0 && n != bindingSize || s.role != roleClient && s.role != roleServer {
		r.Fail(cose.ErrUnexpected)
	}
	if r.End() != nil {
		return statement{}, errMalformedChallenge
	}
	return s, nil
}

// signer returns the side that signs s.
func (s statement) signer() party {
	if s.role == roleClient {
		return s.client
	}
	return s.server
}

// sameConnection reports whether both statements are about one connection: all but role and binding.
func (s statement) sameConnection(o statement) bool {
	o.role, o.binding = s.role, s.binding
	return bytes.Equal(s.append(nil), o.append(nil))
}

// sign returns the proof of s by the agent me, who has to be the signer.
func (s statement) sign(me *identity.Identity) []byte {
	id := me.ID()
	return cose.SignStatement(me, id[:], cose.DomainHandshake, proofType, s.append(nil))
}

// openProof returns the statement of a proof if it is the one that want describes, for the same connection
// and role, and signed by the key that belongs to the ID of its signer. Where want has no server key, the
// statement brings it, and the server's nonce too. The signature comes last: it costs most.
func openProof(data []byte, want statement, now time.Time) (statement, error) {
	if len(data) > maxChallenge {
		return statement{}, errMalformedChallenge
	}
	signed, err := cose.Parse(data)
	if err != nil {
		return statement{}, errMalformedChallenge
	}
	got, err := parseStatement(signed.Payload)
	if err != nil {
		return statement{}, err
	}
	if want.server.key == nil {
		want.server.key, want.serverNonce = got.server.key, got.serverNonce
	}
	if got.role != want.role || !got.sameConnection(want) {
		return statement{}, errForeignProof
	}
	by := got.signer()
	key, err := by.public(now)
	if err != nil {
		return statement{}, err
	}
	if err := signed.VerifyStatement(key, by.id[:], cose.DomainHandshake, proofType); err != nil {
		return statement{}, errBadProof
	}
	return got, nil
}

func openChallenge(data []byte, fields int) cose.Reader {
	r := cose.NewReader(data)
	if r.Array() != fields || r.Uint() != challengeVersion {
		r.Fail(cose.ErrUnexpected)
	}
	return r
}

func readFixed(r *cose.Reader, into []byte) {
	if read := r.Bytes(); len(read) != len(into) {
		r.Fail(cose.ErrUnexpected)
	} else {
		copy(into, read)
	}
}

func readParty(r *cose.Reader) party {
	var p party
	readFixed(r, p.id[:])
	if p.key = bytes.Clone(r.Bytes()); len(p.key) < ed25519.PublicKeySize || len(p.key) > identity.MaxStatement {
		r.Fail(cose.ErrUnexpected)
	}
	return p
}

func readHost(r *cose.Reader) string {
	text := r.Text()
	if len(text) > maxHost {
		r.Fail(cose.ErrUnexpected)
	}
	return string(text)
}

// exporter returns the channel binding of a TLS connection; nothing if there is no TLS.
func exporter(state *tls.ConnectionState) ([]byte, error) {
	if state == nil {
		return nil, nil
	}
	value, err := state.ExportKeyingMaterial(exporterLabel, nil, bindingSize)
	if err != nil {
		return nil, fmt.Errorf("derive channel binding: %w", err)
	}
	return value, nil
}

func newNonce() (nonce [nonceSize]byte) {
	rand.Read(nonce[:])
	return nonce
}
