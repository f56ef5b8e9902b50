// Package websocket connects agents of different processes over WebSocket (RFC 6455), directly or through
// ordinary reverse proxies.
//
// It is the mesh of package tcp, with the same frames, queues, deadlines and bounds, on the bytes of
// binary messages. There are two ways to prove who the agents are, see [Proof]. With [Certificate] the
// connection is TLS 1.3 from agent to agent, and each certificate's key is the agent's key. With
// [Challenge] TLS may end at a proxy, and both agents sign the other's fresh nonce, both IDs and keys,
// and the host that was dialled, under a domain of its own (converge/handshake/v1), right after the
// upgrade.
//
// What a challenge does not give: the proxy that ends TLS sees, and may drop, delay, repeat or insert, what
// is sent after it, since nothing but TLS protects the bytes in between. Inserted and altered messages are
// refused by whoever verifies them, as everywhere; but such a proxy can break connections, use up the
// limits of one, and subscribe in a client's name. Where TLS ends at the agents themselves, a channel
// binding makes sure of it.
package websocket

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/inflight"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/transport"
)

// Endpoint is one agent's [transport.Transport] on a [Network]. Closing it drains what is queued.
type Endpoint = mesh.Endpoint

// ErrAttached says that an agent of that ID is on the network already.
var ErrAttached = mesh.ErrAttached

// Network connects the agents of this process, its endpoints, with each other and with peers
// elsewhere. It is safe for concurrent use.
type Network struct {
	config Config
	mesh   *mesh.Network

	running inflight.Group // requests
	leaving sync.WaitGroup // streams that are being closed
}

var _ transport.Reporter = (*Network)(nil)

// New checks the configuration and starts nothing. Its errors name the field at fault.
func New(c Config) (*Network, error) {
	c.Path, c.Logger = cmp.Or(c.Path, DefaultPath), cmp.Or(c.Logger, slog.Default())
	n := &Network{config: c}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("websocket.Config.%w", err)
	}
	m := c.mesh()
	for i, p := range c.Peers {
		peer, err := c.peer(p)
		if err != nil {
			return nil, fmt.Errorf("websocket.Config.Peers[%d].%w", i, err)
		}
		m.Peers = append(m.Peers, peer)
	}
	var err error
	if n.mesh, err = mesh.New(m, kind{n}); err != nil {
		return nil, fmt.Errorf("websocket.Config.%w", err)
	}
	n.warn()
	return n, nil
}

// Endpoint returns the transport of an agent. It joins the network at Start, which fails with
// [ErrAttached] while another endpoint of that agent is on it.
func (n *Network) Endpoint(id *identity.Identity) *Endpoint { return n.mesh.Endpoint(id) }

// AddPeer lets a peer connect, and dials it if it has an address. A peer that is there already gets the
// new name, address and proof.
func (n *Network) AddPeer(p Peer) error {
	peer, err := n.config.peer(p)
	if err == nil {
		err = n.mesh.AddPeer(peer)
	}
	if err != nil {
		return fmt.Errorf("add peer %s: %w", p.ID, err)
	}
	return nil
}

// RemovePeer disconnects a peer and refuses it from then on. Frames that wait for it are lost.
func (n *Network) RemovePeer(id identity.ID) { n.mesh.RemovePeer(id) }

// Connected reports whether an agent of this network has a connection with the peer.
func (n *Network) Connected(id identity.ID) bool { return n.mesh.Connected(id) }

// Addr returns the address of the listener: nil before the first endpoint started, and without one.
func (n *Network) Addr() net.Addr { return n.mesh.Addr() }

// Stats implements [transport.Reporter].
func (n *Network) Stats() transport.Stats { return n.mesh.Stats() }

// Handler returns what serves agents that prove themselves with a [Challenge], to be mounted in a server of
// one's own: under the path at which clients dial, with HTTP/1.1, and with that server's own timeouts for
// reading headers. It answers 503 until the agent that is called has started. Requests run for as long as
// their connections; [Network.Close] ends them.
func (n *Network) Handler() http.Handler { return door{network: n, proof: Challenge} }

// Close closes the endpoints and the listener, and waits for everything that the network has started,
// requests to the Handler included. Closing twice is fine.
func (n *Network) Close() error {
	n.running.Shut()
	err := n.mesh.Close()
	n.running.Wait()
	n.leaving.Wait()
	return err
}

func (n *Network) warn() {
	if n.config.InsecurePlaintext {
		n.config.Logger.Warn("websocket: plaintext connections beyond this machine are allowed: whoever is on the way reads what is not sealed")
	}
}
