package pool_test

import (
	"testing"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
)

func BenchmarkIsMember(b *testing.B) {
	m := follow(b, newManager(b, newStore(b)))
	create(b, m, open("p"))
	join(b, m, bob, "p")
	id := bob.ID()
	b.ReportAllocs()
	for b.Loop() {
		if !m.IsMember("p", id) {
			b.Fatal("not a member")
		}
	}
}

// BenchmarkGate is what a message costs that is received on one topic.
func BenchmarkGate(b *testing.B) {
	m := follow(b, newManager(b, newStore(b)))
	create(b, m, pool.Spec{Name: "p", Admission: pool.Open, Topics: []string{"talk"}})
	join(b, m, bob, "p")
	g := pool.NewGate(m, alice.ID())
	for name, topic := range map[string]string{"pool": "pool.p.talk", "other": "orders.eu"} {
		b.Run(name, func(b *testing.B) {
			got := received(b, bob, []message.Topic{message.MustTopic(topic)})
			b.ReportAllocs()
			for b.Loop() {
				if passed, err := g.PostReceive(background, got); passed == nil || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	m := follow(b, newManager(b, newStore(b)))
	spec := open("p")
	spec.MaxMembers = pool.MaxMembers
	create(b, m, spec)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		join(b, m, agent2(i), "p")
	}
}
