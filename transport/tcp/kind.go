package tcp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

// kind makes streams over TCP and TLS.
type kind struct{}

// Name implements [mesh.Kind].
func (kind) Name() string { return "tcp" }

// CheckAddress implements [mesh.Kind].
func (kind) CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%.100q is not of the form host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%.100q: the port is not a number from 1 to 65535", address)
	}
	return nil
}

// Dial implements [mesh.Kind].
func (kind) Dial(ctx context.Context, self *peertls.Credential, peer mesh.Peer) (mesh.Stream, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", peer.Address)
	if err != nil {
		return mesh.Stream{}, err
	}
	return prove(ctx, tls.Client(&wire{Conn: raw}, peertls.Client(self, peer.ID, mesh.Protocol)), func(tls.ConnectionState) (identity.ID, error) {
		return self.ID(), nil
	})
}

// Serve implements [mesh.Kind].
func (kind) Serve(l net.Listener, n *mesh.Network) {
	config := peertls.Server{Credential: n.Credential, Allowed: n.Allowed, Protocol: mesh.Protocol, Now: n.Now}.Config()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() { serve(tls.Server(&wire{Conn: raw}, config), n) })
	}
}

func serve(conn *tls.Conn, n *mesh.Network) {
	s, err := prove(context.Background(), conn, peertls.Self) // the listener sees to the deadline
	if err != nil {
		n.Refuse(conn.RemoteAddr(), err)
		return
	}
	n.Accept(s)
}

// prove runs the handshake; self tells which agent is at this end. On error the connection is closed.
func prove(ctx context.Context, conn *tls.Conn, self func(tls.ConnectionState) (identity.ID, error)) (s mesh.Stream, err error) {
	defer func() {
		if err != nil {
			conn.NetConn().Close()
		}
	}()
	if err := conn.HandshakeContext(ctx); err != nil {
		return s, err
	}
	state := conn.ConnectionState()
	s.Conn = stream{conn, conn.NetConn().(*wire)}
	if s.Self, err = self(state); err != nil {
		return s, err
	}
	p, err := peertls.ProofOf(state)
	s.Peer, s.Key, s.Statement = p.ID, p.Key, p.Statement
	return s, err
}
