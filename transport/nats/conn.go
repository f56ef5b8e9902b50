package nats

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/nats-io/nats.go"
)

// guard is one connection to the broker. The client's library writes without a deadline, under the lock that
// it needs for everything else, answers of the broker included; should the broker then wait for us to read,
// nothing would go on. Here, Write only appends to a buffer, and whoever has something to send waits before
// (link.await), for as long as its context allows. The library also takes a broker for dead by counting
// pings, which a slow path delays; here it is dead if it sends nothing at all.
//
// While the library has set a deadline, as it does for the time of a handshake, reads and writes go
// through.
type guard struct {
	net.Conn
	link      *link
	handshake atomic.Bool
	ready     atomic.Bool // the broker has let us in
	closing   sync.Once
	closed    chan struct{}
	closeErr  error

	mu      sync.Mutex
	out     []byte        // to be written
	wake    chan struct{} // there is something
	waiting atomic.Int64  // len(out), and what is being written
}

const (
	// outLimit is how many bytes may wait to be written to the broker before senders wait.
	outLimit = 256 << 10
	// keptBuffer is the size of a buffer that is used again.
	keptBuffer = 128 << 10
)

func newGuard(conn net.Conn, l *link) *guard {
	return &guard{Conn: conn, link: l, closed: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// SetDeadline implements net.Conn. The client's library sets one for the time of a handshake.
func (g *guard) SetDeadline(t time.Time) error {
	if err := g.Conn.SetDeadline(t); err != nil {
		return err
	}
	if !t.IsZero() {
		g.handshake.Store(true)
		return nil
	}
	if g.handshake.CompareAndSwap(true, false) {
		g.link.writing.Go(g.write)
	}
	return g.expectLife() // a Read may be waiting already
}

func (g *guard) expectLife() error {
	return g.Conn.SetReadDeadline(time.Now().Add(g.link.config.IdleTimeout))
}

// Read implements net.Conn. Before it reads on, it waits until what it has brought so far was looked at;
// that never depends on what an agent does.
func (g *guard) Read(p []byte) (int, error) {
	if !g.handshake.Load() {
		g.link.gate.wait(g.closed)
		if err := g.expectLife(); err != nil {
			return 0, err
		}
	}
	return g.Conn.Read(p)
}

// Write implements net.Conn.
func (g *guard) Write(p []byte) (int, error) {
	if g.handshake.Load() {
		return g.Conn.Write(p)
	}
	if g.isClosed() {
		return 0, net.ErrClosed
	}
	g.mu.Lock()
	g.out = append(g.out, p...)
	g.waiting.Add(int64(len(p)))
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// write writes what waits until the connection ends.
func (g *guard) write() {
	var spare []byte
	for {
		select {
		case <-g.wake:
		case <-g.closed:
			return
		}
		g.mu.Lock()
		out := g.out
		g.out = spare
		g.mu.Unlock()
		err := g.Conn.SetWriteDeadline(time.Now().Add(g.link.config.WriteTimeout))
		if err == nil {
			_, err = g.Conn.Write(out)
		}
		if err != nil {
			g.Close() // nobody knows what the broker has got of it
			return
		}
		if spare = out[:0]; cap(out) > keptBuffer {
			spare = nil
		}
		if was := g.waiting.Add(-int64(len(out))) + int64(len(out)); was >= outLimit {
			g.link.notify()
		}
	}
}

// Close implements net.Conn.
func (g *guard) Close() error {
	g.closing.Do(func() {
		close(g.closed)
		g.closeErr = g.Conn.Close()
		g.link.gone(g)
	})
	return g.closeErr
}

// usable reports whether the connection takes more.
func (g *guard) usable() bool {
	return g != nil && g.ready.Load() && g.waiting.Load() < outLimit && !g.isClosed()
}

func (g *guard) isClosed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// gate holds up the reading from a broker while what was read is still in the channel between the client's
// library and the agent's endpoint: the library would drop what the channel has no room for.
type gate struct {
	inbound chan *client.Msg
	waits   atomic.Bool
	room    chan struct{}
}

// inboundRoom is the size of that channel. Half of it is for what one read brings.
const inboundRoom = 2048

func newGate() *gate {
	return &gate{inbound: make(chan *client.Msg, inboundRoom), room: make(chan struct{}, 1)}
}

func (g *gate) crowded() bool { return len(g.inbound) > inboundRoom/2 }

func (g *gate) wait(closed <-chan struct{}) {
	for g.crowded() {
		g.waits.Store(true)
		if !g.crowded() {
			break
		}
		select {
		case <-g.room:
		case <-closed:
			return
		}
	}
	g.waits.Store(false)
}

// took is called after something was taken out of the channel.
func (g *gate) took() {
	if g.waits.Load() && !g.crowded() {
		select {
		case g.room <- struct{}{}:
		default:
		}
	}
}
