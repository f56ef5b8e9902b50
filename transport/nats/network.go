package nats

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// ErrAttached says that an agent of that ID is on the network of this process already.
var ErrAttached = errors.New("agent is attached already")

// Network is one process's way to a broker, with the embedded server if there is one. It is safe for
// concurrent use.
type Network struct {
	config   Config
	subjects subjects
	counters counters

	starting sync.Mutex // serialises Start and Close
	mu       sync.Mutex
	closed   bool
	broker   *broker // nil for an external one, and before Start
	attached map[identity.ID]*Endpoint
}

var _ transport.Reporter = (*Network)(nil)

// New checks the configuration. It starts nothing and reads no file.
func New(c Config) (*Network, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	n := &Network{config: c, subjects: newSubjects(c.Network), attached: map[identity.ID]*Endpoint{}}
	n.counters.log = c.Logger
	return n, nil
}

// Start starts the embedded server, if there is one, and returns when it serves. The first endpoint's Start
// does it otherwise; starting twice is fine. A server of a cluster should be started on its own if the
// others wait for it. Ending ctx abandons the start, not the started network.
func (n *Network) Start(ctx context.Context) error {
	n.starting.Lock()
	defer n.starting.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	closed, started := n.closed, n.broker != nil
	n.mu.Unlock()
	switch {
	case closed:
		return transport.ErrClosed
	case started, n.config.URL != "":
		return nil
	}
	b, err := startBroker(ctx, &n.config, &n.counters)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.broker = b
	n.mu.Unlock()
	return nil
}

// Endpoint returns the transport of an agent. It joins the network at Start, which fails with
// [ErrAttached] while another endpoint of that agent in this process has joined. The broker does not
// refuse a second process with the same agent; both get its frames then.
func (n *Network) Endpoint(id *identity.Identity) *Endpoint {
	return newEndpoint(n, id.ID())
}

// Addr returns where the embedded server listens for agents of other processes; nil if it does not, or not
// yet.
func (n *Network) Addr() net.Addr {
	if b := n.embedded(); b != nil && n.config.Server.Listen != "" {
		return b.server.Addr()
	}
	return nil
}

// ClusterAddr returns where the embedded server listens for other servers; nil if it does not, or not yet.
func (n *Network) ClusterAddr() net.Addr {
	if b := n.embedded(); b != nil && n.config.Server.Cluster.Listen != "" {
		if addr := b.server.ClusterAddr(); addr != nil {
			return addr
		}
	}
	return nil
}

func (n *Network) embedded() *broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broker
}

// Stats implements [transport.Reporter]. Connections are those of this process's agents to the broker.
func (n *Network) Stats() transport.Stats { return n.counters.snapshot() }

// Close closes all endpoints and stops the embedded server. Closing twice is fine.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	var endpoints []*Endpoint
	for _, e := range n.attached {
		endpoints = append(endpoints, e)
	}
	n.mu.Unlock()
	var closing sync.WaitGroup
	for _, e := range endpoints {
		closing.Go(func() { e.Close() })
	}
	closing.Wait()
	n.starting.Lock()
	defer n.starting.Unlock()
	n.mu.Lock()
	b := n.broker
	n.broker = nil
	n.mu.Unlock()
	if b != nil {
		b.stop()
	}
	return nil
}

// attach notes that an endpoint joins.
func (n *Network) attach(e *Endpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return transport.ErrClosed
	}
	if n.attached[e.id] != nil {
		return fmt.Errorf("start NATS transport of %s: %w", e.id, ErrAttached)
	}
	n.attached[e.id] = e
	return nil
}

func (n *Network) detach(e *Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.attached[e.id] == e {
		delete(n.attached, e.id)
	}
}

// open connects an agent.
func (n *Network) open(ctx context.Context, e *Endpoint, back func()) (*link, error) {
	return open(ctx, &n.config, &n.counters, e.id.Short(), n.embedded(), back)
}
