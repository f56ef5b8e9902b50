// Package tcp connects agents of different processes and machines over TCP and TLS 1.3.
//
// Both ends of a connection show a certificate that is self-signed over the agent's key, so the ID of
// the other end is proved before anything is exchanged, and there are no authorities to run: a
// peer is let in by its ID. There is one connection for each pair of agents, whoever dialled it.
// Agents of one [Network] share a listener and reach each other in memory.
//
// A network keeps the connections up: it dials again, with growing and random pauses, when one breaks. It
// delivers at most once what peers take in time, and says what it could not send; what was being written when
// a connection broke is written again, and may arrive twice. Frames from one agent to another stay in order.
//
// Strangers cost little: what is not TLS 1.3, or not of a peer, ends in the handshake, of which there
// are few at a time. Everything that a peer can make grow is bounded by [Config], which says what happens at
// the bound. [Network.Stats] counts what was turned away.
package tcp

import (
	"context"
	"fmt"
	"net"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// ErrAttached says that an agent of that ID is on the network already.
var ErrAttached = mesh.ErrAttached

// Network connects the agents of this process, its endpoints, with each other and with peers
// elsewhere. It is safe for concurrent use.
type Network struct{ mesh *mesh.Network }

var _ transport.Reporter = (*Network)(nil)

// New checks the configuration and starts nothing. Its errors name the field at fault.
func New(c Config) (*Network, error) {
	m, err := mesh.New(mesh.Config(c), kind{})
	if err != nil {
		return nil, fmt.Errorf("tcp.Config: %w", err)
	}
	return &Network{m}, nil
}

// Endpoint returns the transport of an agent. It joins the network at Start, which fails with
// [ErrAttached] while another endpoint of that agent is on it.
func (n *Network) Endpoint(id *identity.Identity) *Endpoint { return &Endpoint{n.mesh.Endpoint(id)} }

// AddPeer lets a peer connect, and dials it if it has an address. A peer that is there already gets the
// new name and address; a connection that is open stays.
func (n *Network) AddPeer(p Peer) error {
	if err := n.mesh.AddPeer(p); err != nil {
		return fmt.Errorf("add %w", err)
	}
	return nil
}

// RemovePeer disconnects a peer and refuses it from then on. Frames that wait for it are lost.
func (n *Network) RemovePeer(id identity.ID) { n.mesh.RemovePeer(id) }

// Addr returns the address of the listener: nil before the first endpoint started, and without one.
func (n *Network) Addr() net.Addr { return n.mesh.Addr() }

// Stats implements [transport.Reporter]. Frames between agents of this network are not counted: they
// take no connection.
func (n *Network) Stats() transport.Stats { return n.mesh.Stats() }

// Close closes the endpoints and the listener, and waits for everything that the network has started.
// Closing twice is fine.
func (n *Network) Close() error { return n.mesh.Close() }

// Endpoint is one agent's [transport.Transport] on a [Network].
type Endpoint struct{ mesh *mesh.Endpoint }

var (
	_ transport.Transport = (*Endpoint)(nil)
	_ transport.Dropper   = (*Endpoint)(nil)
	_ transport.Rotator   = (*Endpoint)(nil)
)

// Start implements [transport.Transport]. The first endpoint of a network opens its listener. Start
// dials all peers that have an address, and returns when each has been reached, or the first attempt
// has failed, or after 2 s: what is not reached by then is dialled on.
func (e *Endpoint) Start(ctx context.Context) error { return e.mesh.Start(ctx) }

// Send implements [transport.Transport]. A frame for a peer that is not connected waits until
// Config.Grace is over. Recipients with room get it first, so that a full one delays only the sender.
func (e *Endpoint) Send(ctx context.Context, to transport.Route, frame []byte) error {
	return e.mesh.Send(ctx, to, frame)
}

// Receive implements [transport.Transport].
func (e *Endpoint) Receive(ctx context.Context) (transport.Frame, error) { return e.mesh.Receive(ctx) }

// Subscribe implements [transport.Transport]. It returns when all connected peers have acknowledged
// the subscription, or after 2 s; peers that are slower, or connect later, learn of it in time. An
// agent may have 1,024 subscriptions.
func (e *Endpoint) Subscribe(ctx context.Context, p message.Pattern) error {
	return e.mesh.Subscribe(ctx, p)
}

// Unsubscribe implements [transport.Transport]. It waits as Subscribe does.
func (e *Endpoint) Unsubscribe(ctx context.Context, p message.Pattern) error {
	return e.mesh.Unsubscribe(ctx, p)
}

// Dropped implements [transport.Dropper]: the frames of agents of this network that found no room. Those
// that come over connections wait there.
func (e *Endpoint) Dropped() uint64 { return e.mesh.Dropped() }

// Rotate implements [transport.Rotator]: connected peers are told at once, on their connections.
func (e *Endpoint) Rotate(id *identity.Identity) error { return e.mesh.Rotate(id) }

// Close implements [transport.Transport]. It sends what is queued, for Config.Linger at most, and says
// goodbye. Frames that were not received are gone.
func (e *Endpoint) Close() error { return e.mesh.Close() }
