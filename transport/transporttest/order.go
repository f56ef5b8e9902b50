package transporttest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

var orderTests = []test{
	{"OneSendersOrderIsKept", testOrder},
	{"ManySendersLoseNothing", testManySenders},
	{"DuplicatesAreDeliveredOnce", testDuplicates},
	{"ShuffledMessagesAreDeliveredOnce", testShuffled},
}

var replayTests = []test{{"ReplayByTheCarrierIsDeliveredOnce", testReplay}}

var reorderTests = []test{{"ReorderingByTheCarrierIsDeliveredOnce", testReorder}}

func testOrder(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter("t")
	const frames = 200
	for i := range frames {
		route := bob.direct()
		if i%3 == 0 {
			route = topics("t")
		}
		alice.mustSend(route, fmt.Sprint(i))
	}
	for i := range frames {
		bob.expect(fmt.Sprint(i))
	}
}

func testManySenders(t *testing.T, c *cast) {
	const senders = 8
	bob := c.enter()
	var sending sync.WaitGroup
	for s := range senders {
		a := c.enter()
		sending.Go(func() {
			for i := range each {
				if err := a.Send(t.Context(), bob.direct(), fmt.Appendf(nil, "%d/%d", s, i)); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
		})
	}
	next := make([]int, senders)
	for range senders * each {
		var s, i int
		if _, err := fmt.Sscanf(string(bob.next()), "%d/%d", &s, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[s] {
			t.Fatalf("sender %d: frame %d arrived, want %d", s, i, next[s])
		}
		next[s]++
	}
	sending.Wait()
}

// testDuplicates has a sender repeat itself and a third agent repeat what it saw: transports carry what
// they are given, and verification lets one through.
func testDuplicates(t *testing.T, c *cast) {
	alice, bob, mallory := c.play(), c.play("t"), c.play()
	s, marker := newStream(alice, bob), newStream(mallory, bob)
	for s.next < doubled {
		s.topic = ""
		if s.next%2 == 1 {
			s.topic = "t"
		}
		raw := s.signNext()
		alice.mustSend(bob.direct(), raw)
		alice.mustSend(topics("t"), raw)
		mallory.mustSend(bob.direct(), raw)
	}
	s.topic = ""
	s.pour(1)
	marker.pour(1) // and so all of mallory's copies have arrived too
	if got := len(bob.heardFrom(alice, 0)); got != doubled+1 {
		t.Errorf("%d messages were delivered, want %d", got, doubled+1)
	}
	s.audit(false) // mallory may have been faster
}

// testShuffled sends messages in another order than they were signed in, as several goroutines of an agent
// do all the time.
func testShuffled(t *testing.T, c *cast) {
	alice, bob := c.play(), c.play()
	s := newStream(alice, bob)
	var frames []string
	for range shuffled {
		frames = append(frames, s.signNext())
	}
	rand.Shuffle(shuffled, func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	for _, frame := range frames {
		alice.mustSend(bob.direct(), frame)
	}
	until(t, "all messages arrive", func() bool { return len(bob.heardFrom(alice, 0)) == shuffled })
	s.audit(false)
}

func testReplay(t *testing.T, c *cast) {
	alice, bob := c.play(), c.play()
	there, back := newStream(alice, bob), newStream(bob, alice)
	carrier := c.fabric.(Replayer)
	for range 3 {
		there.through()
		back.through()
		there.pour(aside)
		back.pour(aside)
		carrier.Replay(alice.id.ID(), bob.id.ID())
		carrier.Replay(bob.id.ID(), alice.id.ID())
	}
	there.through()
	back.through()
	there.pour(replayed)
	back.pour(replayed)
	there.audit(true)
	back.audit(true)
}

func testReorder(t *testing.T, c *cast) {
	alice, bob := c.play(), c.play()
	s := newStream(alice, bob)
	carrier := c.fabric.(Reorderer)
	carrier.Reorder(alice.id.ID(), bob.id.ID())
	for range shuffled {
		if err := s.send(); err != nil {
			t.Fatalf("Send over a path that changes the order: %v", err)
		}
	}
	carrier.Heal(alice.id.ID(), bob.id.ID())
	s.pour(1)
	until(t, "all messages arrive", func() bool { return len(bob.heardFrom(alice, 0)) == shuffled+1 })
	s.audit(false)
}
