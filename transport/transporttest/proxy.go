package transporttest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is a way through a [Proxy]; both can be combined with |.
type Direction uint8

// The directions.
const (
	Forward  Direction = 1 << iota // from the dialler to the target
	Backward                       // from the target to the dialler
)

// dialTimeout bounds a proxy's dialling of its target, which is on this machine.
const dialTimeout = 5 * time.Second

// socketBuffer is how many bytes each socket of a proxy may hold, each way.
const socketBuffer = 64 << 10

// Proxy is a TCP proxy on loopback that can break, silence, slow and repeat what passes. It stands
// between a dialler and a target that is set with [Proxy.Target]. Faults add up, hold for connections
// that are open and for new ones unless it says otherwise, and end with [Proxy.Heal]. All methods are
// safe for concurrent use.
type Proxy struct {
	listener *net.TCPListener
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu       sync.Mutex
	target   string
	faults   faults
	links    map[*link]struct{}
	accepted int
	closed   bool
}

// faults is what a proxy does to its links.
type faults struct {
	cut     bool
	stalled Direction
	rate    int   // bytes a second in each direction; 0 = any
	budget  int64 // bytes until the reset of a link; 0 = any
}

// NewProxy returns a proxy that listens. It is closed at the end of the test.
func NewProxy(t testing.TB) *Proxy {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{listener: listener, links: map[*link]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr returns the address at which the proxy listens, for as long as it is open.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target says where new connections lead. Without a target ("") they are reset.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Accepted returns how many connections were ever made to the proxy.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Connections returns how many connections there are now through the proxy.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Cut resets all connections, and new ones as soon as they are made.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.cut = true
	p.resetAll(func(*link) bool { return true })
}

// Stall swallows what comes in the directions d, ends of streams and resets included. New connections
// are accepted, and are as silent.
func (p *Proxy) Stall(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.stalled |= d
}

// Strand makes the connections that are open now silent in both directions, as Stall does. New ones are
// as sound as ever.
func (p *Proxy) Strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.stranded = true
	}
}

// Slow lets so many bytes a second pass in each direction of each connection; 0 is no bound.
func (p *Proxy) Slow(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.rate = bytesPerSecond
}

// ResetAfter resets each connection once it has carried n more bytes in both directions together.
func (p *Proxy) ResetAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.budget = int64(n)
	for l := range p.links {
		l.budget = p.faults.budget
	}
}

// Replay sends what each open connection carried in the directions d once more: the last 64 KiB of it.
func (p *Proxy) Replay(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		for _, f := range l.flows {
			if f.direction&d != 0 {
				again := append([]byte(nil), f.history...)
				p.running.Go(func() { f.to.Write(again) })
			}
		}
	}
}

// Heal ends all faults. Connections that lost bytes are reset: there is no sense in what would follow.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = faults{}
	p.resetAll(func(l *link) bool { return l.lost || l.stranded })
	for l := range p.links {
		l.budget = 0
	}
}

// Close resets all connections and waits until nothing of the proxy runs. Closing twice is fine.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.cancel()
	p.listener.Close()
	p.resetAll(func(*link) bool { return true })
	p.mu.Unlock()
	p.running.Wait()
}

// resetAll resets the links that it is said to; p.mu is held.
func (p *Proxy) resetAll(which func(*link) bool) {
	for l := range p.links {
		if which(l) {
			p.reset(l)
		}
	}
}

// reset breaks a link; p.mu is held.
func (p *Proxy) reset(l *link) { p.drop(l, reset) }

// drop takes a link out and ends its connections, unless that was done; p.mu is held.
func (p *Proxy) drop(l *link, end func(*net.TCPConn)) {
	if _, open := p.links[l]; open {
		delete(p.links, l)
		close(l.gone)
		end(l.dialler)
		end(l.target)
	}
}

func reset(c *net.TCPConn) {
	c.SetLinger(0) // close with RST
	c.Close()
}

func (p *Proxy) accept() {
	for {
		dialler, err := p.listener.AcceptTCP()
		if p.ctx.Err() != nil {
			return
		}
		if err != nil { // out of descriptors, perhaps: some will be free again
			pause()
			continue
		}
		p.running.Go(func() { p.connect(dialler) })
	}
}

// connect leads a new connection to the target.
func (p *Proxy) connect(dialler *net.TCPConn) {
	p.mu.Lock()
	p.accepted++
	to, refused := p.target, p.refuses()
	p.mu.Unlock()
	if refused {
		reset(dialler)
		return
	}
	target, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(p.ctx, "tcp", to)
	if err != nil {
		reset(dialler)
		return
	}
	p.join(dialler, target.(*net.TCPConn))
}

// refuses reports whether new connections are reset; p.mu is held.
func (p *Proxy) refuses() bool { return p.closed || p.faults.cut || p.target == "" }

func (p *Proxy) join(dialler, target *net.TCPConn) {
	narrow(dialler)
	narrow(target)
	l := newLink(dialler, target)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses() { // since a moment ago
		reset(dialler)
		reset(target)
		return
	}
	l.budget = p.faults.budget
	p.links[l] = struct{}{}
	for _, f := range l.flows {
		p.running.Go(func() { p.carry(l, f) })
	}
}

// narrow has a connection hold little: what waits for a receiver waits at its sender.
func narrow(c *net.TCPConn) {
	c.SetReadBuffer(socketBuffer)
	c.SetWriteBuffer(socketBuffer)
}
