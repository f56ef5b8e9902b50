package nats_test

import (
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
	"github.com/converge-agents/converge/transport/transporttest"
)

// quiet keeps what tests provoke out of their output.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newNetwork(t *testing.T, c nats.Config) *nats.Network {
	t.Helper()
	c.Network = "test"
	if c.Logger == nil {
		c.Logger = quiet
	}
	n, err := nats.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// apart is agents that have a network and a path to the broker each. A path is broken at the agent of the
// two that came later.
type apart struct {
	broker *nats.Network
	config nats.Config // of the agents

	mu    sync.Mutex
	paths map[identity.ID]*path
}

type path struct {
	order int
	proxy *transporttest.Proxy
}

func newApart(t *testing.T, broker, agents nats.Config) *apart {
	t.Helper()
	broker.Server.Listen = "127.0.0.1:0"
	f := &apart{broker: newNetwork(t, broker), config: agents, paths: map[identity.ID]*path{}}
	if err := f.broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *apart) Transport(t *testing.T, id *identity.Identity) transport.Transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.paths[id.ID()]
	if p == nil {
		p = &path{len(f.paths), transporttest.NewProxy(t)}
		p.proxy.Target(f.broker.Addr().String())
		f.paths[id.ID()] = p
	}
	c := f.config
	c.URL = "nats://" + p.proxy.Addr()
	n := newNetwork(t, c)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %+v", id, n.Stats())
		}
	})
	return n.Endpoint(id)
}

// Crowd is agents that are not in such a hurry: a thousand of them keep this machine busy.
func (f *apart) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	broker := newNetwork(t, nats.Config{Server: nats.Server{Listen: "127.0.0.1:0"}})
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	join := func(id *identity.Identity) transport.Transport {
		return newNetwork(t, nats.Config{URL: "nats://" + broker.Addr().String()}).Endpoint(id)
	}
	var rest []transport.Transport
	for _, id := range others {
		rest = append(rest, join(id))
	}
	return join(hub), rest
}

func (f *apart) MaxFrame() int { return nats.DefaultMaxFrame }

// later returns the path of the later one of two agents, and whether that is b.
func (f *apart) later(a, b identity.ID) (p *transporttest.Proxy, isB bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paths[a].order > f.paths[b].order {
		return f.paths[a].proxy, false
	}
	return f.paths[b].proxy, true
}

func (f *apart) Cut(a, b identity.ID) {
	p, _ := f.later(a, b)
	p.Cut()
}

func (f *apart) Strand(a, b identity.ID) {
	p, _ := f.later(a, b)
	p.Strand()
}

func (f *apart) Stall(from, to identity.ID) {
	if p, receives := f.later(from, to); receives {
		p.Stall(transporttest.Backward)
	} else {
		p.Stall(transporttest.Forward)
	}
}

func (f *apart) Flap(a, b identity.ID, n int) {
	p, _ := f.later(a, b)
	p.ResetAfter(n)
}

func (f *apart) Slow(a, b identity.ID, bytesPerSecond int) {
	p, _ := f.later(a, b)
	p.Slow(bytesPerSecond)
}

func (f *apart) Heal(a, b identity.ID) {
	p, _ := f.later(a, b)
	p.Heal()
}

// brisk is for tests that break things.
func brisk(c nats.Config) nats.Config {
	c.IdleTimeout = 5 * time.Second // a busy machine must not take the living for dead
	c.ConnectTimeout = 3 * time.Second
	c.Grace = 300 * time.Millisecond
	c.BackoffMin = 20 * time.Millisecond
	c.BackoffMax = 200 * time.Millisecond
	return c
}
