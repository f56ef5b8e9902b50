package websocket

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

const (
	// protocol is what TLS carries (RFC 7301): upgrades are a matter of HTTP/1.1.
	protocol = "http/1.1"
	// maxHeader bounds the headers of requests and responses.
	maxHeader = 8 << 10
)

// kind makes streams over WebSocket.
type kind struct{ *Network }

var (
	_ mesh.Kind     = kind{}
	_ mesh.Reasoner = kind{}
)

// Name implements [mesh.Kind].
func (kind) Name() string { return "websocket" }

// CheckAddress implements [mesh.Kind]. What comes here was made by Config.peer, which has checked it.
func (kind) CheckAddress(string) error { return nil }

// Reasons implements [mesh.Reasoner].
func (kind) Reasons() []peertls.Reason { return reasons }

// Dial implements [mesh.Kind].
func (k kind) Dial(ctx context.Context, self *peertls.Credential, peer mesh.Peer) (mesh.Stream, error) {
	t, err := targetOf(peer)
	if err != nil {
		return mesh.Stream{}, err
	}
	d := &dialling{network: k.Network, self: self, peer: peer, target: t}
	stream, err := d.connect(ctx)
	if err != nil && d.wire != nil {
		d.wire.Close()
	}
	return stream, err
}

// dialling is one attempt to reach a peer.
type dialling struct {
	network *Network
	self    *peertls.Credential
	peer    mesh.Peer
	target  target
	wire    *wire
	tls     *tls.ConnectionState // nil without TLS
}

func (d *dialling) connect(ctx context.Context) (mesh.Stream, error) {
	ws, err := d.upgrade(ctx)
	if err != nil {
		return mesh.Stream{}, err
	}
	s := mesh.Stream{Self: d.self.ID()}
	if d.target.proof == Certificate {
		s.Peer, s.Key, err = peertls.ID(*d.tls)
	} else {
		var server party
		server, err = d.prove(ctx, ws)
		s.Peer, s.Key = server.id, server.key
	}
	if err != nil {
		return mesh.Stream{}, d.network.turnAway(ws, d.wire, err)
	}
	s.Conn = d.network.newStream(ws, d.wire, d.wire.RemoteAddr())
	return s, nil
}

// upgrade makes a connection of its own, and asks it to become a WebSocket. Redirects are not followed and
// no proxy of the environment is used: nothing is dialled but the address that the peer was given.
func (d *dialling) upgrade(ctx context.Context) (*websocket.Conn, error) {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            d.plain,
			DialTLSContext:         d.secure,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ws, _, err := websocket.Dial(ctx, d.target.url, &websocket.DialOptions{HTTPClient: client})
	return ws, err
}

// plain connects without TLS.
func (d *dialling) plain(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.wire = d.network.newWire(raw)
	return d.wire, nil
}

// secure connects with TLS, and checks the certificate as the proof demands.
func (d *dialling) secure(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config, err := d.tlsConfig(address)
	if err != nil {
		raw.Close()
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	state := conn.ConnectionState()
	d.tls, d.wire = &state, d.network.newWire(conn)
	return d.wire, nil
}

func (d *dialling) tlsConfig(address string) (*tls.Config, error) {
	if d.target.proof == Certificate {
		return peertls.Client(d.self, d.peer.ID, protocol), nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %.100q: %w", address, err)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             host,
		RootCAs:                d.network.config.RootCAs,
		NextProtos:             []string{protocol},
		SessionTicketsDisabled: true,
		Time:                   d.network.config.Now,
	}, nil
}

// prove runs the client's side of the challenge.
func (d *dialling) prove(ctx context.Context, ws *websocket.Conn) (party, error) {
	binding, err := exporter(d.tls)
	if err != nil {
		return party{}, err
	}
	return caller{me: d.self.Identity(), server: d.peer.ID, host: d.target.host, binding: binding}.prove(ctx, ws)
}
