package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
)

// Accept takes over a stream that somebody dialled, and returns when the connection has ended; the
// stream is closed then. It is for kinds.
func (n *Network) Accept(s Stream) {
	l, err := n.receive(s)
	if err != nil {
		n.refused(err, slog.String("id", s.Peer.String()), remote(s))
		s.closeFor(err)
		return
	}
	l.run()
	<-l.done
}

// receive returns the link that a stream has become.
func (n *Network) receive(s Stream) (*link, error) {
	e := n.endpoint(s.Self)
	if e == nil {
		return nil, &peertls.Refusal{Reason: peertls.UnknownAgent, Err: fmt.Errorf("agent %s is called, which is not here", s.Self)}
	}
	p := e.peer(s.Peer)
	if p == nil {
		return nil, &peertls.Refusal{Reason: peertls.UnknownPeer, Err: fmt.Errorf("agent %s is not a peer of %s", s.Peer, s.Self)}
	}
	epoch, err := n.proved(s)
	if err != nil {
		return nil, err
	}
	l := newLink(p, s, false)
	l.epoch.Store(epoch)
	h, err := l.awaitHello(e.open, time.Now().Add(n.c.HandshakeTimeout))
	if err != nil {
		return nil, err
	}
	if err := n.admit(s); err != nil {
		return nil, err
	}
	if err := p.welcome(l, h); err != nil {
		l.writeAll(append(appendHeader(nil, typeBye, 1), byeDuplicate))
		return nil, err
	}
	return l, nil
}

// admit counts a stream as proven, if it came through the gate.
func (n *Network) admit(s Stream) error {
	conn := s.Entry
	if conn == nil {
		conn = s.Conn
	}
	if e := entryOf(conn); e != nil {
		return e.prove(prefixOf(s.RemoteAddr()))
	}
	return nil
}

// Admit takes a connection that did not come from the listener through the same gate: it counts for the
// address from, which need not be its own, and is closed if it does not become a stream in time, or
// is pushed out by others. The connection that it returns is to be used instead, or as
// Stream.Entry. A connection that came from the listener, or leads to one by NetConn methods, moves
// to the address from, and is returned as it is. The error means that the network is closed, or that the
// gate has closed the connection. It is for kinds.
func (n *Network) Admit(conn net.Conn, from netip.Addr) (net.Conn, error) {
	return n.gate.admit(conn, prefixAround(from))
}

// Refuse counts and logs a handshake that has failed, by the reason of its [peertls.Refusal]; other
// errors are classified. It does not close anything. It is for kinds.
func (n *Network) Refuse(from net.Addr, err error) {
	n.refused(err, slog.String("remote", from.String()))
}

func (n *Network) refused(err error, attrs ...slog.Attr) {
	if errors.Is(err, errCounted) || n.isClosed() {
		return
	}
	refusal := peertls.Refuse(err)
	n.ledger.refuse(refusal.Reason, refusal.Err, attrs...)
}

// parted notes why a link has ended.
func (n *Network) parted(l *link) {
	attrs := []slog.Attr{slog.String("id", l.p.id.String()), remote(l.stream)}
	if refusal, ok := errors.AsType[*peertls.Refusal](l.cause); ok {
		n.ledger.refuse(refusal.Reason, refusal.Err, attrs...)
		return
	}
	attrs = append(attrs, slog.Any("error", l.cause))
	n.ledger.log.LogAttrs(context.Background(), slog.LevelDebug, "connection ended", attrs...)
}

func remote(c net.Conn) slog.Attr {
	if a := c.RemoteAddr(); a != nil {
		return slog.String("remote", a.String())
	}
	return slog.String("remote", "")
}

// Now is the clock that certificates are held against. It is for kinds.
func (n *Network) Now() time.Time { return n.c.Now() }
