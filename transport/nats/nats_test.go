package nats_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fabric is a network of agents in one process, without a socket.
type fabric struct{ network *nats.Network }

func (f fabric) Transport(_ *testing.T, id *identity.Identity) transport.Transport {
	return f.network.Endpoint(id)
}

func (f fabric) MaxFrame() int { return nats.DefaultMaxFrame }

func TestConformance(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return fabric{newNetwork(t, nats.Config{})} })
}

func newNetwork(t *testing.T, c nats.Config) *nats.Network {
	t.Helper()
	c.Network = "test"
	n, err := nats.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// proxied is a fabric over TCP, with a proxy before each agent's connection.
type proxied struct {
	t       *testing.T
	server  *nats.Network
	mu      sync.Mutex
	order   map[identity.ID]int
	proxies map[identity.ID]*transporttest.Proxy
}

func newProxied(t *testing.T) *proxied {
	server := newNetwork(t, nats.Config{Server: nats.Server{Listen: "127.0.0.1:0"}, IdleTimeout: time.Second})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &proxied{t: t, server: server, order: map[identity.ID]int{}, proxies: map[identity.ID]*transporttest.Proxy{}}
}

var _ = slog.Default
