package loadtest

import (
	"math"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

// connectWebSocket has agents prove themselves by certificate, as over TCP.
func connectWebSocket(p Parties) (Link, error) {
	c := websocket.Config{Listen: loopback}
	for _, id := range p.Senders {
		c.Peers = append(c.Peers, websocket.Peer{ID: id})
	}
	near, err := webSocketSide(p, c)
	return &dialledLink{near: near, dial: func(address string) (side, error) {
		return webSocketSide(p, websocket.Config{Peers: []websocket.Peer{{ID: p.Receiver, Address: "wss://" + address}}})
	}}, err
}

// webSocketSide makes a network whose limits are in nobody's way.
func webSocketSide(p Parties, c websocket.Config) (side, error) {
	c.Receive, c.Queue = p.Capacity, p.Queue
	c.FrameRate, c.ByteRate = math.MaxInt32, math.MaxInt32
	c.MaxPerAddress, c.MaxHandshakes, c.MaxHandshakesPerAddress = MaxSenders, MaxSenders, MaxSenders
	c.Logger = p.Logger
	n, err := websocket.New(c)
	if err != nil {
		return side{}, err
	}
	return side{n, func(id *identity.Identity) transport.Transport { return n.Endpoint(id) }}, nil
}
