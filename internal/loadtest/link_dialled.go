package loadtest

import (
	"errors"
	"net"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// loopback is where the receiver's side listens: a port that is free.
const loopback = "127.0.0.1:0"

// side is the network of one side, over a transport whose networks dial each other.
type side struct {
	node
	endpoint func(*identity.Identity) transport.Transport
}

type node interface {
	Addr() net.Addr
	Stats() transport.Stats
	Close() error
}

// dialledLink has a network on each side; the senders' side dials.
type dialledLink struct {
	near, far side // far is empty until the first sender
	dial      func(address string) (side, error)
}

// Receiver implements [Link].
func (l *dialledLink) Receiver(id *identity.Identity) (transport.Transport, error) {
	return l.near.endpoint(id), nil
}

// Sender implements [Link].
func (l *dialledLink) Sender(id *identity.Identity) (transport.Transport, error) {
	if l.far.node == nil {
		address := l.near.Addr()
		if address == nil {
			return nil, errors.New("the receiver's side does not listen")
		}
		far, err := l.dial(address.String())
		if err != nil {
			return nil, err
		}
		l.far = far
	}
	return l.far.endpoint(id), nil
}

// Lost implements [Loser].
func (l *dialledLink) Lost() map[string]uint64 {
	lost := map[string]uint64{}
	for _, s := range []side{l.near, l.far} {
		if s.node != nil {
			stats := s.Stats()
			lost["lost by the transport"] += stats.Lost
			addCounts(lost, "refused by the transport, ", stats.Refused)
		}
	}
	return lost
}

// Close implements [Link].
func (l *dialledLink) Close() error {
	err := l.near.Close()
	if l.far.node != nil {
		err = errors.Join(err, l.far.Close())
	}
	return err
}
