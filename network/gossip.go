package network

import (
	"context"
	"errors"
	"strings"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport/tcp"
	"github.com/converge-agents/converge/transport/websocket"
)

// addGossip has agents of other processes tell us of themselves and of each other, if the configuration says so.
func (n *Network) addGossip() (err error) {
	if n.config.Discovery.Via != config.DiscoveryMessages {
		return nil
	}
	c := gossip.Config{Service: n.discovery, Send: n.speak, Known: n.knows, Logger: n.log}
	if n.config.Discovery.Admit == config.AdmitAny {
		c.Admit = func(discovery.Descriptor, identity.ID) bool { return true }
		c.Reach = n.reach
	}
	if n.gossip, err = gossip.New(c); err != nil {
		return err
	}
	n.hooks = append(n.hooks, n.gossip)
	n.metrics.AddGossip(n.gossip)
	return nil
}

// Knows reports whether what an agent says is accepted now, wherever it runs.
func (n *Network) Knows(agent identity.ID) bool {
	_, err := n.registry.Lookup(agent)
	return err == nil
}

// knows reports whether an agent is one of this process's, or one of its peers.
func (n *Network) knows(id identity.ID) bool {
	_, err := n.registry.Lookup(id)
	return !errors.Is(err, identity.ErrUnknown) || n.isNamed(id)
}

func (n *Network) isNamed(id identity.ID) bool {
	_, named := n.names[id]
	return named
}

// speaker returns the agent in whose name this process talks of agents: one of those that end last.
func (n *Network) speaker() *member {
	for _, kind := range []string{config.KindHost, config.KindCoordinator, config.KindWorker, config.KindLLM} {
		for i := range n.members {
			if n.members[i].kind == kind {
				return &n.members[i]
			}
		}
	}
	return nil
}

func (n *Network) speak(ctx context.Context, d message.Draft) error {
	m := n.speaker()
	if m == nil {
		return errors.New("the process has no agent")
	}
	return m.runtime.Send(ctx, d)
}

// tcpScheme begins the URLs of agents that are reached by the transport tcp.
const tcpScheme = "tls://"

// reach lets an agent connect that a peer has introduced, and dials it where the agent itself says that it can be
// reached, if it does. Those whom the configuration names are dialled where it says.
func (n *Network) reach(d discovery.Descriptor) {
	if n.isNamed(d.ID) {
		return
	}
	address := ""
	if len(d.Endpoints) > 0 {
		address = d.Endpoints[0]
	}
	var err error
	switch carrier := n.transport.(type) {
	case tcpCarrier:
		err = carrier.AddPeer(tcp.Peer{Name: d.ID.Short(), ID: d.ID, Address: strings.TrimPrefix(address, tcpScheme)})
	case webSocketCarrier:
		err = carrier.AddPeer(websocket.Peer{Name: d.ID.Short(), ID: d.ID, Address: address})
	}
	if err != nil {
		n.log.Debug("agent advertises an address that cannot be dialled", "agent", d.ID.Short(), "error", err)
	}
}

// runGossip talks until hush is called with the kind of the agent that speaks for this process, which waits for the last
// word. Agents of other kinds go on.
func (n *Network) runGossip(ctx context.Context) (hush func(kind string)) {
	if n.gossip == nil {
		return func(string) {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.gossip.Run(ctx); err != nil {
			n.log.Error("agents of other processes are no longer heard of", "error", err)
		}
	}()
	speaks := config.KindWorker
	if m := n.speaker(); m != nil {
		speaks = m.kind
	}
	return func(kind string) {
		if kind == speaks {
			cancel()
			<-done
		}
	}
}

// endpoints are what descriptors of this process's agents advertise.
func (n *Network) endpoints() []string {
	a := n.config.Discovery.Advertise
	switch {
	case a == "":
		return nil
	case n.config.TransportKind() == config.TransportTCP:
		a = tcpScheme + a
	}
	return []string{a}
}
