package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
)

func TestRemovedPeerIsDisconnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		bob.network.RemovePeer(person(t, "mallory").ID())
		mallory.expectEnd(time.Second)
		if err := bob.Send(t.Context(), transport.Route{To: person(t, "mallory").ID()}, nil); !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("Send: %v", err)
		}
		s.call(bob, "mallory").expectEnd(time.Second)
		if bob.refused(peertls.UnknownPeer) != 1 {
			t.Errorf("%v", bob.network.Stats().Refused)
		}
		honest(t, alice, bob)
	})
}

// TestSimultaneousDialsLeaveOneConnection has both dial, at times that differ by next to nothing.
func TestSimultaneousDialsLeaveOneConnection(t *testing.T) {
	for seed := range uint64(50) {
		bubble(t, func(t *testing.T) {
			s := newStage(t)
			r := rand.New(rand.NewPCG(seed, 0))
			s.delay = func() time.Duration {
				s.mu.Lock()
				defer s.mu.Unlock()
				return time.Duration(r.IntN(3)) * time.Millisecond
			}
			alice := s.cast("alice", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}})
			bob := s.cast("bob", mesh.Config{Peers: []mesh.Peer{peer(t, "alice", true)}})
			started := make(chan bool)
			go func() { alice.start(); started <- true }()
			bob.start()
			<-started
			for i := range 20 { // while the connections are being sorted out, too
				alice.mustSend(bob.route(), fmt.Sprint(i))
				bob.mustSend(alice.route(), fmt.Sprint(i))
				time.Sleep(time.Millisecond)
			}
			for i := range 20 {
				bob.expect(fmt.Sprint(i))
				alice.expect(fmt.Sprint(i))
			}
			time.Sleep(time.Hour)
			for _, a := range []*actor{alice, bob} {
				if stats := a.network.Stats(); stats.Connections != 1 || stats.Opened != 1 {
					t.Errorf("seed %d: %d connections, %d were opened", seed, stats.Connections, stats.Opened)
				}
			}
		})
	}
}

// TestPeerThatDialsAgainReplacesItsConnection: it knows better than we whether the old one is any good.
func TestPeerThatDialsAgainReplacesItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{})
		first := s.call(bob, "mallory")
		first.enter()
		first.say(frame(data, "by the first"))
		second := s.call(bob, "mallory")
		second.say(greeting(0, 0))
		first.expectEnd(2 * time.Second)
		if kind, _ := second.hear(); kind != hello {
			t.Fatalf("the answer is of type %d", kind)
		}
		second.say(frame(ack, number(0)), frame(data, "by the second"))
		bob.expect("by the first", "by the second")
		bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, "answer")
		if kind, payload := second.hear(); kind != data || payload != "answer" {
			t.Errorf("heard %d %q", kind, payload)
		}
		honest(t, alice, bob)
	})
}

// TestDialingAgainAndAgainHoldsOneOldConnection: bob takes nothing, so the first connection cannot be read
// to its end; those that come and go meanwhile do not pile up.
func TestDialingAgainAndAgainHoldsOneOldConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{Receive: 1})
		first := s.call(bob, "mallory")
		first.enter()
		first.say(frame(data, "0"), frame(data, "1"), frame(data, "2"))
		var calls []*puppet
		for range 50 {
			p := s.call(bob, "mallory")
			p.say(greeting(0, 0))
			if kind, _ := p.hear(); kind != hello {
				t.Fatalf("the answer is of type %d", kind)
			}
			calls = append(calls, p)
		}
		last := calls[len(calls)-1]
		for _, p := range calls[:len(calls)-1] {
			p.expectEnd(time.Second)
		}
		go last.Write(append(frame(ack, number(0)), frame(data, "3")...))
		bob.expect("0", "1", "2", "3")
		first.expectEnd(2 * time.Second)
		if stats := bob.network.Stats(); stats.Connections != 2 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestOrderIsKeptAcrossConnections: what the first connection brought is handed over first, though it has
// ended long before there is room.
func TestOrderIsKeptAcrossConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{Receive: 1, Grace: time.Hour})
		first := s.call(bob, "mallory")
		first.enter()
		first.say(frame(data, "0"), frame(data, "1"), frame(data, "2"))
		first.Close()
		time.Sleep(time.Minute)
		second := s.call(bob, "mallory")
		second.say(greeting(0, 0))
		go io.Copy(io.Discard, second)
		go second.Write(append(frame(ack, number(0)), frame(data, "3")...))
		time.Sleep(time.Minute)
		bob.expect("0", "1", "2", "3")
	})
}

// TestChunkThatWasBeingWrittenIsSentAgain: a frame of which the peer has only half is not lost.
func TestChunkThatWasBeingWrittenIsSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		body := strings.Repeat("x", 10_000)
		bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, body)
		io.ReadFull(mallory, make([]byte, 5000))
		mallory.Close()
		<-mallory.ended
		again := s.call(bob, "mallory")
		again.enter()
		if kind, payload := again.hear(); kind != data || payload != body {
			t.Errorf("heard type %d, %d bytes", kind, len(payload))
		}
	})
}

// TestNothingIsLostToAConnectionThatIsGivenUp: the dialler goes away without having heard the answer.
func TestNothingIsLostToAConnectionThatIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{})
		bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, "waits")
		deaf := s.call(bob, "mallory")
		deaf.say(greeting(0, 0))
		if kind, _ := deaf.hear(); kind != hello {
			t.Fatalf("the answer is of type %d", kind)
		}
		time.Sleep(time.Second)
		deaf.Close()
		<-deaf.ended
		again := s.call(bob, "mallory")
		again.enter()
		if kind, payload := again.hear(); kind != data || payload != "waits" {
			t.Errorf("heard %d %q", kind, payload)
		}
	})
}

func TestGoodbyeIsSaidAndHeard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, "last words")
		closed := make(chan error)
		go func() { closed <- bob.Close() }()
		for i, want := range []string{"last words", "\x00"} {
			if kind, payload := mallory.hear(); payload != want || kind != []byte{data, bye}[i] {
				t.Errorf("heard %d %q", kind, payload)
			}
		}
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait until the peer had read what was sent")
		default:
		}
		mallory.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestCloseWaitsNoLongerThanLinger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{Linger: 3 * time.Second})
		s.call(bob, "mallory").enter()
		bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, "never read")
		begin := time.Now()
		bob.Close()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("Close took %s", took)
		}
		if lost := bob.network.Stats().Lost; lost != 1 {
			t.Errorf("%d frames were lost", lost)
		}
	})
}

func TestSubscribeWaitsForTheAcknowledgement(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		subscribed := make(chan error, 1)
		begin := time.Now()
		go func() { subscribed <- bob.Subscribe(t.Context(), pattern("a")) }()
		kind, payload := mallory.hear()
		if kind != subscribe || !strings.HasSuffix(payload, "a") {
			t.Fatalf("heard %d %q", kind, payload)
		}
		time.Sleep(time.Second)
		if len(subscribed) > 0 {
			t.Error("Subscribe did not wait")
		}
		mallory.say(frame(ack, payload[:8]))
		if err := <-subscribed; err != nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}

		go func() { subscribed <- bob.Subscribe(t.Context(), pattern("b")) }()
		mallory.hear()
		if err := <-subscribed; err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("a peer that does not acknowledge: %v after %s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		go io.CopyN(io.Discard, mallory, 5) // takes what is written, and says nothing
		if err := bob.Subscribe(ctx, pattern("c")); err == nil || err.Error() != "enough" {
			t.Errorf("a context that ends first: %v", err)
		}
	})
}

func TestOwnSubscriptionsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, alice, _ := duo(t, mesh.Config{})
		for i := range mesh.MaxPatterns {
			if err := alice.Subscribe(t.Context(), pattern(fmt.Sprint("t", i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := alice.Subscribe(t.Context(), pattern("more")); err == nil || !strings.Contains(err.Error(), "1024") {
			t.Errorf("%v", err)
		}
		if err := alice.Subscribe(t.Context(), pattern("t7")); err != nil {
			t.Errorf("what is there already: %v", err)
		}
	})
}

// TestPeerThatDialsAgainAndAgainIsNotKeptAway has a peer that has lost its memory dial, while the connection that it was
// dialled by before is silent: asking that one for a sign of life must not put off its end each time.
func TestPeerThatDialsAgainAndAgainIsNotKeptAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		small, large := "alice", "mallory" // of two links, the one that the smaller ID dialled stays
		if a, b := person(t, small).ID(), person(t, large).ID(); bytes.Compare(a[:], b[:]) > 0 {
			small, large = large, small
		}
		s := newStage(t)
		s.answer = func(c net.Conn) {
			var hello [5 + 17]byte
			if _, err := io.ReadFull(c, hello[:]); err == nil {
				c.Write(append(greeting(7, 0), frame(ack, string(hello[14:22]))...))
			}
			io.Copy(io.Discard, c)
		}
		a := s.cast(small, mesh.Config{
			ProgressTimeout: 2 * time.Second, IdleTimeout: time.Hour, Peers: []mesh.Peer{peer(t, large, true)},
		}).start()
		time.Sleep(time.Second)
		if n := a.network.Stats().Connections; n != 1 {
			t.Fatalf("%d connections", n)
		}
		for i := range uint64(20) {
			p := s.call(a, large)
			go p.Write(greeting(100+i, 0))
			go io.Copy(io.Discard, p)
			time.Sleep(500 * time.Millisecond)
		}
		// Once the old one has ended, either the next call is let in, or the agent has dialled first.
		if refused := a.refused(mesh.Duplicate); refused == 0 || refused == 20 && s.attempts(large) < 2 {
			t.Errorf("%d of 20 calls were refused, and the old connection is still there", refused)
		}
	})
}
