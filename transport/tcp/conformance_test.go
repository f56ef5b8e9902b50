package tcp_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestConformance(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		return &fabric{Wires: transporttest.NewWires(t)}
	})
}

// fabric gives every agent a network of its own, as in a process of its own, and a wire to each other one.
type fabric struct {
	*transporttest.Wires
	members []*member
}

var _ interface {
	transporttest.Cutter
	transporttest.Staller
	transporttest.Strander
	transporttest.Flapper
	transporttest.Slower
	transporttest.Replayer
	transporttest.Limits
	transporttest.Policy
	transporttest.Crowder
} = (*fabric)(nil)

// brisk has short times, so that what the suite waits for happens soon, but not so short that a busy machine is taken for
// a fault: agents connect within the grace, and answer within the idle timeout.
var brisk = tcp.Config{
	Listen:           "127.0.0.1:0",
	HandshakeTimeout: 10 * time.Second,
	IdleTimeout:      3 * time.Second,
	Grace:            3 * time.Second,
	MinBackoff:       20 * time.Millisecond,
	MaxBackoff:       200 * time.Millisecond,
	Linger:           time.Second,
	Queue:            256 << 10,
}

const maxFrame = 1<<20 + 64<<10 // the default

func (f *fabric) MaxFrame() int { return maxFrame }

func (f *fabric) WhenReceiverStops() transporttest.Overflow { return transporttest.Blocks }

func (f *fabric) Transport(t *testing.T, id *identity.Identity) transport.Transport {
	c := brisk
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	m := newMember(t, f, id, c)
	for _, other := range f.members {
		if other.id.ID() == id.ID() {
			continue
		}
		m.add(t, other.id, f.Address(id.ID(), other.id.ID()))
		other.add(t, id, f.Address(other.id.ID(), id.ID()))
	}
	f.members = append(f.members, m)
	return m
}

// Crowd makes a star: the hub knows all, and the others know and dial the hub.
func (f *fabric) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	calm := brisk
	calm.Logger = slog.New(slog.DiscardHandler)
	calm.IdleTimeout, calm.HandshakeTimeout, calm.Grace = 30*time.Second, 10*time.Second, 10*time.Second
	center := newMember(t, f, hub, calm)
	var crowd []transport.Transport
	for _, id := range others {
		calm.Listen = ""
		m := newMember(t, f, id, calm)
		center.add(t, id, "")
		m.beforeStart = func() { m.add(t, hub, center.network.Addr().String()) }
		crowd = append(crowd, m)
	}
	return center, crowd
}

// member is an agent of a fabric.
type member struct {
	*tcp.Endpoint
	fabric      *fabric
	network     *tcp.Network
	id          *identity.Identity
	beforeStart func()
}

func newMember(t *testing.T, f *fabric, id *identity.Identity, c tcp.Config) *member {
	t.Helper()
	n, err := tcp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return &member{Endpoint: n.Endpoint(id), fabric: f, network: n, id: id}
}

func (m *member) add(t *testing.T, id *identity.Identity, address string) {
	t.Helper()
	if err := m.network.AddPeer(tcp.Peer{ID: id.ID(), Address: address}); err != nil {
		t.Fatal(err)
	}
}

// Start implements [transport.Transport].
func (m *member) Start(ctx context.Context) error {
	if m.beforeStart != nil {
		m.beforeStart()
	}
	err := m.Endpoint.Start(ctx)
	if addr := m.network.Addr(); addr != nil {
		m.fabric.Listens(m.id.ID(), addr.String())
	}
	return err
}

// Close closes the network too, as the process of an agent that ends would.
func (m *member) Close() error { return m.network.Close() }
