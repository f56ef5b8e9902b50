package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
)

// errNoPeer says that this system does not tell who is at the other end.
var errNoPeer = errors.New("the system does not say who is at the other end of a socket")

// peer is who is at the other end of a connection.
type peer struct {
	uid    int
	proven bool // the system said so
}

// allowed reports whether the peer is served: the owner of this process, and root.
func (p peer) allowed() bool { return !p.proven || p.uid == 0 || p.uid == os.Geteuid() }

// String names the peer for records.
func (p peer) String() string {
	if !p.proven {
		return "somebody who may use " + SocketName
	}
	id := strconv.Itoa(p.uid)
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("%s (uid %s)", u.Username, id)
	}
	return "uid " + id
}

// guarded is a listener whose connections are few, and of peers that are served.
type guarded struct {
	*net.UnixListener
	open    atomic.Int64
	refused func(why string, p peer)
}

// guardedConn is one of its connections.
type guardedConn struct {
	*net.UnixConn
	peer  peer
	close func()
}

// Accept implements [net.Listener].
func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if c := g.admit(conn); c != nil {
			return c, nil
		}
		conn.Close()
	}
}

// admit returns nil for a connection that is not to be served.
func (g *guarded) admit(conn *net.UnixConn) net.Conn {
	p, err := peerOf(conn)
	switch {
	case err != nil && !errors.Is(err, errNoPeer):
		g.refused(err.Error(), p)
		return nil
	case !p.allowed():
		g.refused("neither the owner of the network nor root", p)
		return nil
	case g.open.Add(1) > MaxConnections:
		g.open.Add(-1)
		g.refused("too many connections", p)
		return nil
	}
	return &guardedConn{conn, p, sync.OnceFunc(func() { g.open.Add(-1) })}
}

// Close implements [net.Conn].
func (c *guardedConn) Close() error {
	c.close()
	return c.UnixConn.Close()
}
