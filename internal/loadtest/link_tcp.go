package loadtest

import (
	"math"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

func connectTCP(p Parties) (Link, error) {
	c := tcp.Config{Listen: loopback}
	for _, id := range p.Senders {
		c.Peers = append(c.Peers, tcp.Peer{ID: id})
	}
	near, err := tcpSide(p, c)
	return &dialledLink{near: near, dial: func(address string) (side, error) {
		return tcpSide(p, tcp.Config{Peers: []tcp.Peer{{ID: p.Receiver, Address: address}}})
	}}, err
}

// tcpSide makes a network whose limits are in nobody's way.
func tcpSide(p Parties, c tcp.Config) (side, error) {
	c.Receive, c.Queue = p.Capacity, p.Queue
	c.FrameRate, c.ByteRate = math.MaxInt32, math.MaxInt32
	c.MaxPerAddress, c.MaxHandshakes, c.MaxHandshakesPerAddress = MaxSenders, MaxSenders, MaxSenders
	c.Logger = p.Logger
	n, err := tcp.New(c)
	if err != nil {
		return side{}, err
	}
	return side{n, func(id *identity.Identity) transport.Transport { return n.Endpoint(id) }}, nil
}
