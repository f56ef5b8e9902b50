package tcp_test

import (
	"bytes"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport/tcp"
)

// node is an agent with a network of its own.
type node struct {
	*tcp.Endpoint
	network *tcp.Network
	id      *identity.Identity
}

func (n *node) ID() identity.ID { return n.id.ID() }

func (n *node) peer(address string) tcp.Peer { return tcp.Peer{ID: n.ID(), Address: address} }

func (n *node) address() string { return n.network.Addr().String() }

func person(t testing.TB, seed byte) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// enter starts an agent that listens.
func enter(t testing.TB, seed byte, c tcp.Config) *node {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	network, err := tcp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	id := person(t, seed)
	n := &node{network.Endpoint(id), network, id}
	t.Cleanup(func() { network.Close() })
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// pair starts two agents, of which the first dials the second.
func pair(t testing.TB, c tcp.Config) (alice, bob *node) {
	t.Helper()
	bobs := c
	bobs.Peers = []tcp.Peer{{ID: person(t, 1).ID()}}
	bob = enter(t, 2, bobs)
	c.Peers = []tcp.Peer{bob.peer(bob.address())}
	return enter(t, 1, c), bob
}
