// Package mesh connects agents of different processes with frames over byte streams: who may
// connect, one connection a pair of agents, subscriptions, queues, deadlines and bounds. What makes a
// stream, and how its ends prove who they are, is a [Kind]'s business: TCP or WebSocket.
//
// A connection carries data from an end once the other end has answered or acknowledged its hello, so
// nothing is lost to a connection that one end gives up. Of two connections that a pair of
// agents dials at the same time, the one dialled by the smaller ID stays. When a connection breaks, what
// is queued waits for the next one, as long as Config.Grace; what was being written is written
// again, so frames may arrive twice, which the replay window of the messages sorts out.
//
// Everything that a stranger or a peer can make grow is bounded, and Config says what happens at the bound.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/internal/topics"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// ErrAttached says that an agent of that ID is on the network already.
var ErrAttached = errors.New("agent is attached already")

// Network connects the agents of this process, its endpoints, with each other and with peers
// elsewhere. It is safe for concurrent use.
type Network struct {
	c       Config
	kind    Kind
	unwatch func() // ends the watching of keys
	ledger  *ledger
	gate    *gate
	serving sync.WaitGroup

	mu        sync.RWMutex
	endpoints map[identity.ID]*Endpoint // the started ones
	topics    topics.Index[*Endpoint]   // what the endpoints have subscribed to
	peers     map[identity.ID]Peer
	listener  net.Listener // nil until it is open
	closed    bool
	done      chan struct{} // closed when Close is done
}

var _ transport.Reporter = (*Network)(nil)

// New checks the configuration and starts nothing. Its errors name the field of Config.
func New(c Config, k Kind) (*Network, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	ledger := newLedger(c.Logger, k)
	n := &Network{
		c: c, kind: k, ledger: ledger, gate: newGate(c, ledger),
		endpoints: map[identity.ID]*Endpoint{}, peers: map[identity.ID]Peer{}, done: make(chan struct{}),
	}
	for i, p := range c.Peers {
		if _, twice := n.peers[p.ID]; twice {
			return nil, peerFault(i, fmt.Errorf("agent %s is there twice", p.ID))
		}
		if err := n.AddPeer(p); err != nil {
			return nil, peerFault(i, err)
		}
	}
	n.unwatch = n.watchKeys()
	return n, nil
}

// Endpoint returns the transport of an agent. It joins the network at Start, which fails with
// [ErrAttached] while another endpoint of that agent is on it.
func (n *Network) Endpoint(id *identity.Identity) *Endpoint { return newEndpoint(n, id) }

// AddPeer lets a peer connect, and dials it if it has an address. A peer that is there already gets the
// new name and address; a connection that is open stays.
func (n *Network) AddPeer(p Peer) error {
	if p.ID.IsZero() {
		return fmt.Errorf("peer %q has no ID", p.Name)
	}
	if p.Address != "" {
		if err := n.kind.CheckAddress(p.Address); err != nil {
			return fmt.Errorf("peer %q: address: %w", p.Name, err)
		}
	}
	endpoints, err := n.enter(p)
	for _, e := range endpoints {
		e.addPeer(p)
	}
	return err
}

func (n *Network) enter(p Peer) ([]*Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.peers[p.ID]; !known && len(n.peers) >= n.c.MaxPeers {
		return nil, fmt.Errorf("peer %q: there are %d peers already, which is the limit", p.Name, len(n.peers))
	}
	n.peers[p.ID] = p
	return slices.Collect(maps.Values(n.endpoints)), nil
}

// RemovePeer disconnects a peer and refuses it from then on. Frames that wait for it are lost.
func (n *Network) RemovePeer(id identity.ID) {
	n.mu.Lock()
	delete(n.peers, id)
	endpoints := slices.Collect(maps.Values(n.endpoints))
	n.mu.Unlock()
	for _, e := range endpoints {
		e.removePeer(id)
	}
}

// Connected reports whether any endpoint has a connection with a peer.
func (n *Network) Connected(id identity.ID) bool {
	n.mu.RLock()
	endpoints := slices.Collect(maps.Values(n.endpoints))
	n.mu.RUnlock()
	return slices.ContainsFunc(endpoints, func(e *Endpoint) bool {
		p := e.peer(id)
		return p != nil && p.connected()
	})
}

// Addr returns the address of the listener: nil before the first endpoint started, and without one.
func (n *Network) Addr() net.Addr {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.listener == nil {
		return nil
	}
	return n.listener.Addr()
}

// Stats implements [transport.Reporter].
func (n *Network) Stats() transport.Stats { return n.ledger.stats() }

// Close closes the endpoints and the listener, and waits for everything that the network has started.
// Closing twice is fine.
func (n *Network) Close() error {
	n.mu.Lock()
	first := !n.closed
	n.closed = true
	endpoints, l := slices.Collect(maps.Values(n.endpoints)), n.listener
	n.mu.Unlock()
	if !first {
		<-n.done
		return nil
	}
	defer close(n.done)
	n.unwatch()
	var closing sync.WaitGroup
	for _, e := range endpoints {
		closing.Go(func() { e.Close() })
	}
	closing.Wait()
	n.gate.close()
	if l != nil {
		l.Close()
	}
	n.serving.Wait()
	return nil
}

func (n *Network) isClosed() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.closed
}

// join adds an endpoint that starts, and opens the listener for the first one. It returns the peers.
func (n *Network) join(ctx context.Context, e *Endpoint) ([]Peer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.endpoints[e.id]; taken {
		return nil, ErrAttached
	}
	if n.closed || e.state.Load() != stateNew {
		return nil, transport.ErrClosed
	}
	if err := n.listen(ctx); err != nil {
		return nil, err
	}
	e.state.Store(stateStarted)
	n.endpoints[e.id] = e
	for _, p := range e.subs.patterns() {
		n.topics.Add(p, e)
	}
	return slices.Collect(maps.Values(n.peers)), nil
}

func (n *Network) listen(ctx context.Context) error {
	if n.c.Listen == "" || n.listener != nil {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", n.c.Listen)
	if err != nil {
		return err
	}
	n.listener = l
	n.c.Logger.Info("listening", "transport", n.kind.Name(), "address", l.Addr().String())
	n.serving.Go(func() { n.kind.Serve(listener{l, n.gate}, n) })
	return nil
}

// leave takes an endpoint out, and returns what its state was, and whether it was still open.
func (n *Network) leave(e *Endpoint) (before int32, first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before = e.state.Swap(stateClosed)
	if before == stateStarted {
		delete(n.endpoints, e.id)
		n.topics.RemoveAll(e)
	}
	return before, before != stateClosed
}

// moved says that an agent is not an endpoint of this network any more. It may be a peer elsewhere.
func (n *Network) moved(id identity.ID) {
	n.mu.RLock()
	endpoints := slices.Collect(maps.Values(n.endpoints))
	n.mu.RUnlock()
	for _, e := range endpoints {
		if p := e.peer(id); p != nil {
			p.stir()
		}
	}
}

// endpoint returns a started endpoint, or nil.
func (n *Network) endpoint(id identity.ID) *Endpoint {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.endpoints[id]
}

// elsewhere returns those of the peers that are not endpoints of this network.
func (n *Network) elsewhere(peers []*peer) []*peer {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.DeleteFunc(peers, func(p *peer) bool { return n.endpoints[p.id] != nil })
}

// audience returns the endpoints other than e that hear the topics, or all if there are no topics.
func (n *Network) audience(e *Endpoint, topics []message.Topic) (found []*Endpoint) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if len(topics) > 0 {
		found = n.topics.Match(topics)
	} else {
		found = slices.Collect(maps.Values(n.endpoints))
	}
	return slices.DeleteFunc(found, func(r *Endpoint) bool { return r == e })
}

// subscribed notes a change of an endpoint's subscriptions; those of one that has not started yet are
// taken over when it does.
func (n *Network) subscribed(e *Endpoint, p message.Pattern, subscribe bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case e.state.Load() != stateStarted:
	case subscribe:
		n.topics.Add(p, e)
	default:
		n.topics.Remove(p, e)
	}
}

// Credential returns the credential of an endpoint that has started, or nil. It is for kinds.
func (n *Network) Credential(self identity.ID) *peertls.Credential {
	if e := n.endpoint(self); e != nil {
		return e.credential
	}
	return nil
}

// Allowed reports whether peer may connect to the endpoint self. It is for kinds.
func (n *Network) Allowed(self, peer identity.ID) bool {
	e := n.endpoint(self)
	return e != nil && e.peer(peer) != nil
}

// peerFault names the entry at fault; who made the Config adds the struct's name.
func peerFault(i int, err error) error { return fmt.Errorf("%s[%d]: %w", "Peers", i, err) }
