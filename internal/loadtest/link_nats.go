package loadtest

import (
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// connectNATS has the embedded server on the receiver's side; the senders' side connects to it over
// loopback, without TLS.
func connectNATS(p Parties) (Link, error) {
	near, err := natsSide(p, nats.Config{Server: nats.Server{Listen: loopback}})
	return &dialledLink{near: near, dial: func(address string) (side, error) {
		return natsSide(p, nats.Config{URL: "nats://" + address})
	}}, err
}

func natsSide(p Parties, c nats.Config) (side, error) {
	c.Network = network
	c.Logger = p.Logger
	n, err := nats.New(c)
	if err != nil {
		return side{}, err
	}
	return side{n, func(id *identity.Identity) transport.Transport { return n.Endpoint(id) }}, nil
}
