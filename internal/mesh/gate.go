package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
)

// errCounted is what a connection that the gate has closed, and counted, returns to the handshake.
var errCounted = errors.New("closed by the listener: too slow")

// gate stands between strangers and the handshakes. A connection counts as unproven until it is
// proved; there is little room for those, and it goes to who is quick.
type gate struct {
	limits Config
	ledger *ledger

	mu        sync.Mutex
	closed    bool
	end       chan struct{} // closed with the gate
	addresses map[netip.Prefix]*address
	unproven  int
	proven    int
}

// listener is a listener behind a gate.
type listener struct {
	net.Listener
	gate *gate
}

// address is what one address has.
type address struct {
	unproven []*entry // oldest first
	proven   int
}

// entry is a connection that came through the gate.
type entry struct {
	net.Conn
	gate   *gate
	from   netip.Prefix
	since  time.Time
	expiry *time.Timer
	state  entryState // gate.mu
}

type entryState uint8

const (
	unproven entryState = iota
	proven
	expelled // by the gate; its owner has not closed it yet
	released
)

func newGate(limits Config, ledger *ledger) *gate {
	return &gate{limits: limits, ledger: ledger, end: make(chan struct{}), addresses: map[netip.Prefix]*address{}}
}

// Accept implements [net.Listener]. Errors that pass are waited for; the one that it returns means
// that the listener is closed.
func (l listener) Accept() (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := l.Listener.Accept()
		if err == nil {
			return l.gate.admit(conn, prefixOf(conn.RemoteAddr()))
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		l.gate.ledger.refuse(Accepting, err)
		select {
		case <-time.After(pause):
		case <-l.gate.end:
		}
	}
}

// close lets nobody in any more, and closes the unproven connections.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	close(g.end)
	for _, a := range g.addresses {
		for len(a.unproven) > 0 {
			g.expel(a.unproven[0])
		}
	}
}

// admit lets a connection in, as an unproven one of that address. One that is in already moves there. A gate that is
// closed closes the connection.
func (g *gate) admit(conn net.Conn, from netip.Prefix) (net.Conn, error) {
	admitted, err := g.tryAdmit(conn, from)
	if errors.Is(err, net.ErrClosed) {
		conn.Close() // g.mu is not held: the connection may lead to an entry, whose Close takes it
	}
	return admitted, err
}

func (g *gate) tryAdmit(conn net.Conn, from netip.Prefix) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, net.ErrClosed
	}
	if e := entryOf(conn); e != nil {
		if e.state != unproven {
			return nil, errCounted
		}
		g.leave(e)
		e.from = from
		g.enter(e)
		return conn, nil
	}
	e := &entry{Conn: conn, gate: g, from: from, since: time.Now()}
	e.expiry = time.AfterFunc(g.limits.HandshakeTimeout, e.expire)
	g.enter(e)
	return e, nil
}

// enter puts an unproven entry into the books; g.mu is held.
func (g *gate) enter(e *entry) {
	g.makeRoom(e.from)
	a := g.address(e.from)
	a.unproven = append(a.unproven, e)
	g.unproven++
}

// leave takes an entry out of the books; g.mu is held.
func (g *gate) leave(e *entry) {
	a := g.addresses[e.from]
	switch e.state {
	case unproven:
		i := slices.Index(a.unproven, e)
		a.unproven = slices.Delete(a.unproven, i, i+1)
		g.unproven--
	case proven:
		a.proven--
		g.proven--
	}
	if len(a.unproven) == 0 && a.proven == 0 {
		delete(g.addresses, e.from)
	}
}

func (g *gate) address(from netip.Prefix) *address {
	a := g.addresses[from]
	if a == nil {
		a = &address{}
		g.addresses[from] = a
	}
	return a
}

// makeRoom closes the oldest unproven connection of an address that has its share, or of the one that
// has most if all shares together are taken.
func (g *gate) makeRoom(from netip.Prefix) {
	victim := g.addresses[from]
	if victim == nil || len(victim.unproven) < g.limits.MaxHandshakesPerAddress {
		if g.unproven < g.limits.MaxHandshakes {
			return
		}
		victim = g.busiest()
	}
	oldest := victim.unproven[0]
	g.expel(oldest)
	g.ledger.refuse(Evicted, errors.New("too many unproven connections: the oldest is closed"), remote(oldest))
}

// busiest returns the address with the most unproven connections; of several the one with the oldest.
func (g *gate) busiest() (found *address) {
	for _, a := range g.addresses {
		switch {
		case len(a.unproven) == 0:
		case found == nil || len(a.unproven) > len(found.unproven),
			len(a.unproven) == len(found.unproven) && a.unproven[0].since.Before(found.unproven[0].since):
			found = a
		}
	}
	return found
}

func (e *entry) expire() {
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	if e.state != unproven {
		return
	}
	e.gate.expel(e)
	e.gate.ledger.refuse(peertls.Timeout, fmt.Errorf("nothing proved within %s", e.gate.limits.HandshakeTimeout), remote(e))
}

// expel closes an unproven connection; g.mu is held.
func (g *gate) expel(e *entry) {
	g.remove(e, expelled)
	e.Conn.Close()
}

// remove takes an entry out of the books for good; g.mu is held.
func (g *gate) remove(e *entry, next entryState) {
	g.leave(e)
	e.expiry.Stop()
	e.state = next
}

// prove turns an entry into a proven one that counts for the address from, or says why there is no
// room for it.
func (e *entry) prove(from netip.Prefix) error {
	g := e.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.state != unproven {
		return errCounted
	}
	if g.proven >= g.limits.MaxConnections {
		return &peertls.Refusal{Reason: TooMany, Err: fmt.Errorf("%d connections are open already", g.proven)}
	}
	if a := g.addresses[from]; a != nil && a.proven >= g.limits.MaxPerAddress {
		return &peertls.Refusal{Reason: TooManyFromAddress, Err: fmt.Errorf("%d connections are open from %s already", a.proven, from)}
	}
	g.remove(e, proven)
	e.from = from
	g.address(from).proven++
	g.proven++
	return nil
}

// Read implements [net.Conn]. It tells apart what the gate has closed.
func (e *entry) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if err != nil && e.isExpelled() {
		err = errCounted
	}
	return n, err
}

func (e *entry) isExpelled() bool {
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	return e.state == expelled
}

// Close implements [net.Conn].
func (e *entry) Close() error {
	e.gate.mu.Lock()
	if e.state == unproven || e.state == proven {
		e.gate.remove(e, released)
	}
	e.gate.mu.Unlock()
	return e.Conn.Close()
}

// entryOf finds the gate's connection under others.
func entryOf(conn net.Conn) *entry {
	for conn != nil {
		if e, ok := conn.(*entry); ok {
			return e
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = wrapper.NetConn()
	}
	return nil
}

// prefixOf returns what counts as one address: an IPv4 address, or the /64 that an IPv6 host has to
// itself. Other networks, such as pipes, are one address together.
func prefixOf(a net.Addr) netip.Prefix {
	at, _ := netip.ParseAddrPort(a.String())
	return prefixAround(at.Addr())
}

func prefixAround(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, _ := ip.Prefix(bits) // fails for the zero address only
	return prefix
}
