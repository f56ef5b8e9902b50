package nats

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/transport"
)

// link is an agent's connection to the broker, over all of its breaks.
type link struct {
	config   *Config
	counters *counters
	agent    string  // in logs
	broker   *broker // nil: an external one
	gate     *gate
	back     func() // called when the connection is back: what was on its way may be lost
	conn     *client.Conn
	current  atomic.Pointer[guard]
	writing  sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	abort   context.CancelFunc // of the dialling that is under way
	lost    time.Time          // when the connection broke; zero if there is one
	changed chan struct{}      // closed and replaced when the connection comes or goes
}

// open connects. Ending ctx abandons that, and has no effect afterwards.
func open(ctx context.Context, c *Config, n *counters, agent string, b *broker, back func()) (*link, error) {
	l := &link{config: c, counters: n, agent: agent, broker: b, gate: newGate(), back: back, changed: make(chan struct{})}
	options, err := c.clientOptions(l)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, l.end)
	l.conn, err = dial(&options)
	if !stop() {
		err = context.Cause(ctx)
		if l.conn != nil {
			l.conn.Close()
		}
	}
	if err != nil {
		l.end()
		return nil, c.connectError(n, err)
	}
	l.enter()
	return l, nil
}

// end makes attempts to connect fail, those that are under way included.
func (l *link) end() {
	l.mu.Lock()
	l.ended = true
	if l.abort != nil {
		l.abort()
	}
	l.mu.Unlock()
	if g := l.current.Load(); g != nil {
		g.Close()
	}
}

var errEnded = errors.New("the connection was closed")

// InProcessConn implements client.InProcessConnProvider.
func (l *link) InProcessConn() (net.Conn, error) { return l.wrap(l.broker.server.InProcessConn()) }

// Dial implements client.CustomDialer.
func (l *link) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.config.ConnectTimeout)
	defer cancel()
	l.mu.Lock()
	l.abort = cancel
	ended := l.ended
	l.mu.Unlock()
	if ended {
		return nil, errEnded
	}
	return l.wrap(new(net.Dialer).DialContext(ctx, network, address))
}

// wrap makes a guard of a new connection, and closes the one before it.
func (l *link) wrap(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	g := newGuard(conn, l)
	if old := l.current.Swap(g); old != nil {
		old.Close()
	}
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if ended {
		g.Close()
		return nil, errEnded
	}
	return g, nil
}

// enter notes that the broker has let us in.
func (l *link) enter() {
	g := l.current.Load()
	if g == nil || g.isClosed() || !g.ready.CompareAndSwap(false, true) {
		return
	}
	l.counters.connected()
	l.mu.Lock()
	l.lost = time.Time{}
	l.mu.Unlock()
	l.notify()
	if g.isClosed() {
		l.gone(g)
	}
}

// gone notes that a connection was closed.
func (l *link) gone(g *guard) {
	if !g.ready.CompareAndSwap(true, false) {
		return
	}
	l.counters.disconnected()
	l.mu.Lock()
	l.lost = time.Now()
	l.mu.Unlock()
	l.notify()
}

func (l *link) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// state returns when the connection broke, and a channel that is closed when that changes.
func (l *link) state() (lost time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.changed
}

func (l *link) usable() bool { return l.current.Load().usable() }

// await waits until the connection takes more: while there is none, for Grace from when it broke; until ctx
// ends, or until closed is.
func (l *link) await(ctx context.Context, closed <-chan struct{}) error {
	for {
		lost, changed := l.state()
		if l.usable() {
			return nil
		}
		if err := l.awaitChange(ctx, closed, lost, changed); err != nil {
			return err
		}
	}
}

func (l *link) awaitChange(ctx context.Context, closed <-chan struct{}, lost time.Time, changed <-chan struct{}) error {
	var over <-chan time.Time
	if !lost.IsZero() {
		grace := time.NewTimer(time.Until(lost.Add(l.config.Grace)))
		defer grace.Stop()
		over = grace.C
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closed:
		return transport.ErrClosed
	case <-over:
		return fmt.Errorf("%w: no connection to the broker for %v", transport.ErrUnreachable, time.Since(lost).Round(time.Millisecond))
	}
}

// errBroken says that there is no connection that takes more, for now.
var errBroken = errors.New("no usable connection")

// try calls send, which does not wait, if the connection is usable. After an error nothing was sent. size is
// the frame's.
func (l *link) try(size int, send func(*client.Conn) error) error {
	if !l.usable() {
		return errBroken
	}
	err := send(l.conn)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrReconnectBufExceeded):
		l.gone(l.current.Load()) // it broke just now
		return errBroken
	case errors.Is(err, client.ErrConnectionClosed), errors.Is(err, client.ErrConnectionDraining):
		return transport.ErrClosed
	case errors.Is(err, client.ErrMaxPayload):
		return fmt.Errorf("%w: %d bytes, and the broker's limit is %d", transport.ErrTooLarge, size, l.conn.MaxPayload())
	case !l.usable():
		return errBroken
	default:
		return err
	}
}

// publish is try with patience.
func (l *link) publish(ctx context.Context, closed <-chan struct{}, size int, send func(*client.Conn) error) error {
	for {
		err := l.try(size, send)
		if err != errBroken {
			return err
		}
		if err := l.await(ctx, closed); err != nil {
			return err
		}
	}
}

// flush returns when the broker has got all that was published and has answered it, or after limit at most.
func (l *link) flush(ctx context.Context, limit time.Duration) error {
	if !l.usable() {
		return client.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return l.conn.FlushWithContext(ctx)
}

// spread waits before another question for a recipient that was not there: in a cluster it takes a moment
// until all servers know of a new one. It returns transport.ErrUnreachable if there is no use in that.
func (l *link) spread(ctx context.Context, closed <-chan struct{}, attempt int) error {
	pauses := []time.Duration{50 * time.Millisecond, 150 * time.Millisecond}
	if attempt >= len(pauses) || l.conn.ConnectedClusterName() == "" {
		return transport.ErrUnreachable
	}
	return pause(ctx, closed, pauses[attempt])
}

// pause waits, unless ctx or the endpoint ends before.
func pause(ctx context.Context, closed <-chan struct{}, d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closed:
		return transport.ErrClosed
	}
}

// close sends what is still to be sent, for Grace at most, and closes the connection.
func (l *link) close() {
	if l.flush(context.Background(), l.config.Grace) == nil {
		l.conn.Close()
	}
	l.end() // whatever still holds the connection lets go of it
	l.conn.Close()
	l.writing.Wait()
}
