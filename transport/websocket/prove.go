package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
)

var (
	errUnknownPeer = errors.New("not one of the peers")
	errHost        = errors.New("the client dialled another host")
	errOtherAgent  = errors.New("the client means another agent")
)

// callee is the server's side of a challenge, as far as it is known before.
type callee struct {
	me      *identity.Identity
	known   func(identity.ID) bool // who may connect
	host    func(string) bool      // whether the client may have dialled that host
	binding []byte                 // empty unless the client is at the other end of the TLS connection
	now     func() time.Time       // for statements about keys
}

// prove runs the server's side of the challenge and returns the client. What is refused is refused before
// anything is signed; what is signed is of no use to anybody else.
func (c callee) prove(ctx context.Context, ws *websocket.Conn) (party, error) {
	data, err := readBinary(ctx, ws)
	if err != nil {
		return party{}, err
	}
	g, err := parseGreeting(data)
	if err != nil {
		return party{}, err
	}
	if err := c.admit(g); err != nil {
		return party{}, err
	}
	s := statement{
		role: roleServer, client: g.client, server: partyOf(c.me),
		clientNonce: g.nonce, serverNonce: newNonce(), host: g.host, binding: c.binding,
	}
	if err := ws.Write(ctx, websocket.MessageBinary, s.sign(c.me)); err != nil {
		return party{}, err
	}
	if data, err = readBinary(ctx, ws); err != nil {
		return party{}, err
	}
	s.role = roleClient
	got, err := openProof(data, s, c.now())
	if err != nil {
		return party{}, err
	}
	if len(c.binding) > 0 && !bytes.Equal(got.binding, c.binding) {
		return party{}, errBinding
	}
	return got.client, nil
}

// admit checks a greeting as far as that goes without a signature.
func (c callee) admit(g greeting) error {
	switch {
	case g.server != c.me.ID():
		return errOtherAgent
	case !c.known(g.client.id):
		return errUnknownPeer
	case !c.host(g.host):
		return errHost
	default:
		_, err := g.client.public(c.now())
		return err
	}
}

// caller is the client's side of a challenge.
type caller struct {
	me      *identity.Identity
	server  identity.ID
	host    string
	binding []byte // empty without TLS
	now     func() time.Time
}

// prove runs the client's side of the challenge and returns the server.
func (c caller) prove(ctx context.Context, ws *websocket.Conn) (party, error) {
	me := partyOf(c.me)
	g := greeting{client: me, server: c.server, nonce: newNonce(), host: c.host}
	if err := ws.Write(ctx, websocket.MessageBinary, g.append(nil)); err != nil {
		return party{}, err
	}
	data, err := readBinary(ctx, ws)
	if err != nil {
		return party{}, err
	}
	s, err := openProof(data, statement{
		role: roleServer, client: me, server: party{id: c.server}, clientNonce: g.nonce, host: c.host,
	}, c.now())
	if err != nil {
		return party{}, err
	}
	if len(s.binding) > 0 && !bytes.Equal(s.binding, c.binding) {
		return party{}, errBinding
	}
	s.role, s.binding = roleClient, c.binding
	return s.server, ws.Write(ctx, websocket.MessageBinary, s.sign(c.me))
}

// readBinary reads one message of a challenge.
func readBinary(ctx context.Context, ws *websocket.Conn) ([]byte, error) {
	ws.SetReadLimit(maxChallenge)
	kind, data, err := ws.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read challenge: %w", err)
	}
	if kind != websocket.MessageBinary {
		return nil, errText
	}
	return data, nil
}
