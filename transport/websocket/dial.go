package websocket

import (
	"context"
	"crypto/tls"
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
	stream, err := d.run(ctx)
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
	wire    *wire                // nil until there is a connection
	tls     *tls.ConnectionState // nil without TLS
}

func (d *dialling) run(ctx context.Context) (mesh.Stream, error) {
	if err := d.connect(ctx); err != nil {
		return mesh.Stream{}, err
	}
	ws, err := d.upgrade(ctx)
	if err != nil {
		return mesh.Stream{}, err
	}
	s := mesh.Stream{Self: d.self.ID()}
	if d.target.proof == Certificate {
		var p peertls.Proof
		p, err = peertls.ProofOf(*d.tls)
		s.Peer, s.Key, s.Statement = p.ID, p.Key, p.Statement
	} else {
		var server party
		server, err = d.prove(ctx, ws)
		s = server.into(s)
	}
	if err != nil {
		return mesh.Stream{}, d.network.turnAway(ws, d.wire, err)
	}
	s.Conn = d.network.newStream(ws, d.wire, d.wire.RemoteAddr())
	return s, nil
}

// connect makes a connection, with TLS if the URL says so. No proxy of the environment is used: nothing is
// dialled but the address that the peer was given.
func (d *dialling) connect(ctx context.Context) error {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", d.target.address)
	if err != nil {
		return err
	}
	d.wire = d.network.newWire(raw)
	if !d.target.tls {
		return nil
	}
	conn := tls.Client(raw, d.tlsConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	d.tls, d.wire = &state, d.network.newWire(conn)
	return nil
}

// upgrade asks the connection to become a WebSocket. Redirects are not followed.
func (d *dialling) upgrade(ctx context.Context) (*websocket.Conn, error) {
	ours := func(context.Context, string, string) (net.Conn, error) { return d.wire, nil }
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: ours, DialTLSContext: ours, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ws, _, err := websocket.Dial(ctx, d.target.url, &websocket.DialOptions{HTTPClient: client})
	return ws, err
}

func (d *dialling) tlsConfig() *tls.Config {
	if d.target.proof == Certificate {
		return peertls.Client(d.self, d.peer.ID, protocol)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             d.target.name,
		RootCAs:                d.network.config.RootCAs,
		NextProtos:             []string{protocol},
		SessionTicketsDisabled: true,
		Time:                   d.network.config.Now,
	}
}

// prove runs the client's side of the challenge.
func (d *dialling) prove(ctx context.Context, ws *websocket.Conn) (party, error) {
	binding, err := exporter(d.tls)
	if err != nil {
		return party{}, err
	}
	return caller{me: d.self.Identity(), server: d.peer.ID, host: d.target.host, binding: binding, now: d.network.mesh.Now}.prove(ctx, ws)
}
