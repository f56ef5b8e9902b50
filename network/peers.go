package network

import (
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
)

// peer is an agent of another process.
type peer struct {
	name    string
	id      identity.ID
	address string
	proof   string
}

// readPeers reads the peers of the configuration. The keys that it gives are known from now on; the other
// peers prove theirs when they connect.
func (n *Network) readPeers() ([]peer, error) {
	var peers []peer
	for i, p := range n.config.Peers {
		id, err := identity.ParseID(p.ID)
		if err != nil {
			return nil, fmt.Errorf("peers[%d].id: %w", i, err)
		}
		key, err := p.PublicKey()
		if err == nil && key != nil {
			err = n.registry.Register(id, key)
		}
		if err != nil {
			return nil, fmt.Errorf("peers[%d].key: %w", i, err)
		}
		n.names[id] = p.Name
		peers = append(peers, peer{name: p.Name, id: id, address: p.Address, proof: p.Proof})
	}
	return peers, nil
}

// checkSelf refuses an agent that is a peer too: the process would dial itself.
func (n *Network) checkSelf(id identity.ID) error {
	for i, p := range n.peers {
		if p.id == id {
			return advice.On(
				fmt.Errorf("its ID %s is that of peers[%d] (%q) too", id, i, p.name),
				"peers are the agents of other processes; leave this one's own out, and give no two processes the same key file")
		}
	}
	return nil
}

// peerNamed returns the ID of the peer of that name, the zero ID if there is none.
func (n *Network) peerNamed(name string) identity.ID {
	for _, p := range n.peers {
		if p.name == name {
			return p.id
		}
	}
	return identity.ID{}
}
