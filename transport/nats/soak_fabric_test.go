//go:build soak

package nats_test

import (
	"context"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// inside is agents of one process, without a socket.
type inside struct{ network *nats.Network }

func (f inside) Transport(_ *testing.T, id *identity.Identity) transport.Transport {
	return f.network.Endpoint(id)
}

func (f inside) MaxFrame() int { return nats.DefaultMaxFrame }

// kept is agents of one process in the durable mode. Those that are closed leave for good, as the suite
// wants it.
type kept struct{ network *nats.Network }

func (f kept) Transport(_ *testing.T, id *identity.Identity) transport.Transport {
	return leaver{f.network.Endpoint(id)}
}

// Crowd is a thousand agents. The stream looks through all consumers at each acknowledgement, and the race
// detector makes minutes of that: under it they meet in the core mode.
func (f kept) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	n := f.network
	if raceDetector {
		n = newNetwork(t, nats.Config{})
	}
	var rest []transport.Transport
	for _, id := range others {
		rest = append(rest, n.Endpoint(id))
	}
	return n.Endpoint(hub), rest
}

func (f kept) MaxFrame() int { return nats.DefaultMaxFrame }

type leaver struct{ *nats.Endpoint }

func (l leaver) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l.Forget(ctx) // it fails on those that were not started or are closed
	return l.Endpoint.Close()
}
