//go:build soak

package nats_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
	"github.com/converge-agents/converge/transport/transporttest"
)

// attack publishes malformed frames as a stranger: to the agent, to a topic and to all, with and without
// headers that are no better.
type attack struct {
	conns  []*client.Conn
	victim string
	count  []int
}

func (a *attack) hit(_ context.Context, attacker int, frame []byte) error {
	a.count[attacker]++
	m := &client.Msg{Data: frame}
	switch a.count[attacker] % 6 {
	case 0:
		m.Subject = prefix + "all"
	case 1:
		m.Subject = prefix + "topic.t"
	case 2:
		m.Subject = prefix + "topic.t"
		m.Header = client.Header{"Converge-Topics": {string(frame)}, "Converge-Frame": {"f"}}
	case 3:
		m.Subject, m.Reply = prefix+"agent."+a.victim, prefix+"agent."+a.victim
	default:
		m.Subject = prefix + "agent." + a.victim
	}
	if err := a.conns[attacker].PublishMsg(m); err != nil {
		return err
	}
	if a.count[attacker]%1000 == 0 {
		return a.conns[attacker].Flush()
	}
	return nil
}

func malformed(t *testing.T, c nats.Config, frames int) {
	n := newNetwork(t, listening(c))
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const attackers = 4
	a := &attack{count: make([]int, attackers)}
	for range attackers {
		a.conns = append(a.conns, stranger(t, n))
	}
	transporttest.Malformed(t, inside{n}, transporttest.MalformedConfig{
		Frames: frames, Attackers: attackers, Attack: a.hit,
		Victim: func(id identity.ID) { a.victim = id.String() },
	})
	t.Logf("stats: %+v", n.Stats())
}

func TestMillionMalformedFrames(t *testing.T) { malformed(t, nats.Config{}, 1_000_000) }

func TestMalformedFramesInTheStream(t *testing.T) { malformed(t, durable(t), 100_000) }

// shedding is a fabric whose senders do not wait.
type shedding struct{ inside }

func (shedding) WhenReceiverStops() transporttest.Overflow { return transporttest.Sheds }

func TestConformanceWhereSendersDoNotWait(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		return shedding{inside{newNetwork(t, nats.Config{WhenFull: transport.DropNewest, PendingBytes: 16 << 20})}}
	})
}

// keptApart is agents in the durable mode with paths that can be bad, but not for so long that anybody
// should be told: what is sent is stored.
type keptApart struct{ apart *apart }

func (f keptApart) Transport(t *testing.T, id *identity.Identity) transport.Transport {
	return leaver{f.apart.Transport(t, id).(*nats.Endpoint)}
}

func (f keptApart) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	return f.apart.Crowd(t, hub, others)
}

func (f keptApart) Flap(a, b identity.ID, n int)     { f.apart.Flap(a, b, n) }
func (f keptApart) Slow(a, b identity.ID, speed int) { f.apart.Slow(a, b, speed) }
func (f keptApart) Strand(a, b identity.ID)          { f.apart.Strand(a, b) }
func (f keptApart) Heal(a, b identity.ID)            { f.apart.Heal(a, b) }
func (f keptApart) MaxFrame() int                    { return f.apart.MaxFrame() }

func TestConformanceDurableOverTCP(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		agents := brisk(nats.Config{Durable: nats.Durable{Enabled: true, MaxPending: 1000}})
		agents.Grace = 10 * time.Second
		return keptApart{newApart(t, brisk(durable(t)), agents)}
	})
}

// tapped is agents on a broker that somebody listens in on, who sends what it has heard again.
type tapped struct {
	*apart
	tap *client.Conn

	mu      sync.Mutex
	carried map[string][]*client.Msg // to each agent, lately
}

func newTapped(t *testing.T) *tapped {
	f := &tapped{apart: newApart(t, brisk(nats.Config{}), brisk(nats.Config{})), carried: map[string][]*client.Msg{}}
	f.tap = stranger(t, f.broker)
	if _, err := f.tap.Subscribe(prefix+"agent.*", f.note); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *tapped) note(m *client.Msg) {
	const kept = 64
	f.mu.Lock()
	defer f.mu.Unlock()
	all := append(f.carried[m.Subject], m)
	f.carried[m.Subject] = all[max(len(all)-kept, 0):]
}

func (f *tapped) Replay(_, to identity.ID) {
	f.mu.Lock()
	again := slices.Clone(f.carried[prefix+"agent."+to.String()])
	f.mu.Unlock()
	for _, m := range again {
		f.tap.PublishMsg(&client.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data})
	}
	f.tap.Flush()
}

func TestConformanceOnATappedBroker(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return newTapped(t) })
}

// TestConformance is TestConformanceOverTCP within one process.
func TestConformance(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return inside{newNetwork(t, nats.Config{})} })
}

func TestConformanceDurable(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return kept{newNetwork(t, durable(t))} })
}
