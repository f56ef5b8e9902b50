package mesh_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
)

func TestConfigIsChecked(t *testing.T) {
	bob := peer(t, "bob", true)
	for field, c := range map[string]mesh.Config{
		"Queue":            {Queue: -1},
		"Receive":          {Receive: math.MaxInt32 + 1},
		"MaxFrame":         {MaxFrame: -5},
		"WhenFull":         {WhenFull: 7},
		"HandshakeTimeout": {HandshakeTimeout: time.Microsecond},
		"IdleTimeout":      {IdleTimeout: -time.Second},
		"Grace":            {Grace: 48 * time.Hour},
		"Peers[0]":         {Peers: []mesh.Peer{{Name: "nobody"}}},
		"Peers[1]":         {Peers: []mesh.Peer{bob, bob}},
		"address":          {Peers: []mesh.Peer{{ID: bob.ID, Address: "with space"}}},
		"limit":            {MaxPeers: 1, Peers: []mesh.Peer{bob, peer(t, "carol", false)}},
	} {
		if _, err := mesh.New(c, newStage(t)); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New with a wrong %s: %v", field, err)
		}
	}
}

func TestFramesWaitForAPeerThatIsConnecting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		alice := s.cast("alice", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}}).start()
		bob := s.cast("bob", mesh.Config{Peers: []mesh.Peer{peer(t, "alice", false)}})
		for i := range 100 {
			alice.mustSend(bob.route(), fmt.Sprint(i))
		}
		time.Sleep(2 * time.Second)
		bob.start()
		for i := range 100 {
			bob.expect(fmt.Sprint(i))
		}
		if lost := alice.network.Stats().Lost; lost != 0 {
			t.Errorf("%d frames were lost", lost)
		}
	})
}

func TestFramesForAPeerThatStaysAwayAreLostAndTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := duo(t, mesh.Config{Grace: 5 * time.Second})
		_ = s
		bob.network.Close()
		synctest.Wait()
		begin := time.Now()
		sent := 0
		for alice.Send(t.Context(), bob.route(), []byte("x")) == nil {
			sent++
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 5100*time.Millisecond {
			t.Errorf("frames were queued for %s", took)
		}
		synctest.Wait()
		err := alice.Send(t.Context(), bob.route(), []byte("x"))
		sendErr, ok := errors.AsType[*transport.SendError](err)
		if !ok || !errors.Is(err, transport.ErrUnreachable) || sendErr.Missed != 1 || sendErr.Route.To != bob.id {
			t.Errorf("Send: %v", err)
		}
		if lost := alice.network.Stats().Lost; lost != uint64(sent) {
			t.Errorf("%d frames of %d were counted as lost", lost, sent)
		}
		if want := fmt.Sprint("frames_lost=", sent); alice.lines("peer lost") != 1 || alice.lines(want) != 1 {
			t.Errorf("no single line with %s:\n%s", want, alice.log)
		}
		if alice.network.Connected(bob.id) {
			t.Error("Connected says yes")
		}
	})
}

func TestPeerThatComesBackIsUpAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := duo(t, mesh.Config{})
		bob.network.Close()
		time.Sleep(time.Minute)
		again := s.cast("bob", mesh.Config{Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
		if err := again.Subscribe(t.Context(), pattern("news")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second) // the longest pause between attempts
		honest(t, alice, again)
		alice.mustSend(topic("news"), "news")
		again.expect("news")
		synctest.Wait()
		if alice.lines("peer connected") != 2 || alice.lines("peer lost") != 1 {
			t.Errorf("the log:\n%s", alice.log)
		}
	})
}

func TestSubscriptionsSurviveAReconnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := duo(t, mesh.Config{})
		if err := bob.Subscribe(t.Context(), pattern("news.>")); err != nil {
			t.Fatal(err)
		}
		s.cut()
		alice.mustSend(topic("news.today"), "during the cut")
		bob.expect("during the cut")
		s.cut()
		time.Sleep(3 * time.Second)
		alice.mustSend(topic("news.today"), "after the cut")
		bob.expect("after the cut")
		if err := bob.Unsubscribe(t.Context(), pattern("news.>")); err != nil {
			t.Fatal(err)
		}
		alice.mustSend(topic("news.today"), "to nobody")
		bob.expectNothing()
	})
}

// TestBackoffGrowsAndIsRandom counts the attempts to reach somebody who is not there.
func TestBackoffGrowsAndIsRandom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.cast("alice", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}}).start()
		time.Sleep(10 * time.Second)
		first := s.attempts("bob")
		time.Sleep(time.Hour)
		// The pause is 5 s in the mean once it has grown: 720 in an hour, give or take six deviations.
		if later := s.attempts("bob") - first; first < 5 || first > 30 || later < 620 || later > 820 {
			t.Errorf("%d attempts in the first ten seconds, %d in the hour after", first, later)
		}
	})
}

func TestFullQueueIsToldOrWaitedFor(t *testing.T) {
	for name, policy := range map[string]transport.WhenFull{"block": transport.Block, "drop newest": transport.DropNewest} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, _, bob := trio(t, mesh.Config{Queue: 5000, WhenFull: policy})
				mallory := s.call(bob, "mallory")
				mallory.enter()
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
				defer cancel()
				var err error
				accepted := 0
				for err == nil {
					if err = bob.Send(ctx, transport.Route{To: person(t, "mallory").ID()}, make([]byte, 995)); err == nil {
						accepted++
					}
				}
				want := map[transport.WhenFull]bool{transport.Block: err.Error() == "send to agent "+person(t, "mallory").ID().String()+": 1 recipient(s) missed: enough",
					transport.DropNewest: errors.Is(err, transport.ErrQueueFull)}
				if !want[policy] || accepted != 5 {
					t.Errorf("after %d frames of 1,000 bytes: %v", accepted, err)
				}
				go io.Copy(io.Discard, mallory)
				synctest.Wait()
				bob.mustSend(transport.Route{To: person(t, "mallory").ID()}, "once there is room")
			})
		})
	}
}

// TestFullPeerDelaysOnlyItself: who has room gets a broadcast at once.
func TestFullPeerDelaysOnlyItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{Queue: 1000})
		s.call(bob, "mallory").enter()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for bob.Send(ctx, transport.Route{}, make([]byte, 900)) == nil {
			alice.next()
		}
		alice.next()
		sent := make(chan error, 1)
		go func() { sent <- bob.Send(t.Context(), transport.Route{}, []byte("to all")) }()
		alice.expect("to all")
		bob.network.RemovePeer(person(t, "mallory").ID())
		if err := <-sent; err != nil {
			t.Errorf("Send, when the one who was full has left: %v", err)
		}
	})
}

func TestKeyIsToldBeforeAnyFrame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		told := map[identity.ID]bool{}
		bob := s.cast("bob", mesh.Config{
			Peers: []mesh.Peer{peer(t, "alice", false)},
			OnKey: func(id identity.ID, _ ed25519.PublicKey) { told[id] = true },
		}).start()
		if len(told) > 0 {
			t.Error("a key was told before anybody was there")
		}
		alice := s.cast("alice", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}}).start()
		alice.mustSend(bob.route(), "hi")
		bob.expect("hi")
		if !told[alice.id] || len(told) != 1 {
			t.Errorf("%v was told", told)
		}
	})
}

func TestAgentsOfOneNetworkNeedNoConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		alice := s.cast("alice", mesh.Config{Receive: 4, Peers: []mesh.Peer{peer(t, "bob", true)}}).start()
		bob := &actor{alice.network.Endpoint(person(t, "bob")), t, alice.network, person(t, "bob").ID(), alice.log}
		if err := bob.Subscribe(t.Context(), pattern("news")); err != nil { // before the start, too
			t.Fatal(err)
		}
		if err := bob.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := alice.network.Endpoint(person(t, "bob")).Start(t.Context()); !errors.Is(err, mesh.ErrAttached) {
			t.Errorf("a second bob: %v", err)
		}
		honest(t, alice, bob)
		alice.mustSend(topic("news"), "news")
		alice.mustSend(topic("other"), "not for bob")
		alice.mustSend(transport.Route{}, "to all")
		bob.expect("news", "to all")
		for range 4 {
			alice.mustSend(bob.route(), "fills the queue")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := alice.Send(ctx, bob.route(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Send to a full agent: %v", err)
		}
		time.Sleep(time.Minute)
		if stats := alice.network.Stats(); stats.Opened != 0 || stats.FramesOut != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestFullAgentOfThisNetworkDropsAsToldTo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		alice := s.cast("alice", mesh.Config{Receive: 1, WhenFull: transport.DropNewest}).start()
		bob := alice.network.Endpoint(person(t, "bob"))
		if err := bob.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		to := transport.Route{To: person(t, "bob").ID()}
		alice.mustSend(to, "first")
		if err := alice.Send(t.Context(), to, []byte("second")); !errors.Is(err, transport.ErrQueueFull) || bob.Dropped() != 1 {
			t.Errorf("%v, %d dropped", err, bob.Dropped())
		}
	})
}

func TestStartWaitsForPeersButNotForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		s.delay = func() time.Duration { return time.Hour }
		alice := s.cast("alice", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}})
		begin := time.Now()
		alice.start()
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("Start took %s", took)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		carol := s.cast("carol", mesh.Config{Peers: []mesh.Peer{peer(t, "bob", true)}})
		if err := carol.Start(ctx); err == nil || err.Error() != "enough" {
			t.Errorf("Start whose context ended: %v", err)
		}
		if err := carol.Send(t.Context(), alice.route(), nil); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Send after a start that was abandoned: %v", err)
		}
	})
}

func TestPeersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		bob := s.cast("bob", mesh.Config{Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
		alice := s.cast("alice", mesh.Config{}).start()
		if err := alice.Send(t.Context(), bob.route(), nil); !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("Send to somebody who is no peer: %v", err)
		}
		elsewhere := peer(t, "bob", true)
		elsewhere.Address = "nowhere"
		for _, p := range []mesh.Peer{elsewhere, peer(t, "bob", true)} { // the second corrects the address
			if err := alice.network.AddPeer(p); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		honest(t, alice, bob)
		alice.network.RemovePeer(bob.id)
		alice.network.RemovePeer(bob.id)
		if err := alice.Send(t.Context(), bob.route(), nil); !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("Send to a peer that was removed: %v", err)
		}
		attempts := s.attempts("bob")
		time.Sleep(time.Hour)
		if now := s.attempts("bob"); now != attempts || alice.network.Stats().Connections != 0 {
			t.Errorf("a peer that was removed is dialled: %d times", now-attempts)
		}
		if err := alice.network.AddPeer(peer(t, "bob", true)); err != nil {
			t.Fatal(err)
		}
		honest(t, alice, bob)
	})
}

func TestLogHasOneLineASecondForAReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t)
		alice := s.cast("alice", mesh.Config{}).start()
		for range 1000 {
			alice.network.Refuse(nowhere{}, &peertls.Refusal{Reason: peertls.UnknownPeer, Err: errors.New("who?")})
			time.Sleep(10 * time.Millisecond)
		}
		alice.network.Refuse(nowhere{}, errors.New("something else"))
		if n := alice.lines("reason=unknown_peer"); n != 10 || alice.refused(peertls.UnknownPeer) != 1000 || alice.lines("suppressed=99") != 9 {
			t.Errorf("%d lines in 10 s:\n%s", n, alice.log)
		}
		if alice.lines("reason=handshake") != 1 || alice.refused(peertls.Handshake) != 1 {
			t.Errorf("another reason:\n%s", alice.log)
		}
	})
}

type nowhere struct{}

func (nowhere) Network() string { return "none" }
func (nowhere) String() string  { return "nowhere" }

func TestFramesOverTheLimitAreNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, alice, bob := duo(t, mesh.Config{MaxFrame: 1000})
		err := alice.Send(t.Context(), bob.route(), make([]byte, 1001))
		if !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "1001 bytes, at most 1000") {
			t.Errorf("%v", err)
		}
		alice.mustSend(bob.route(), strings.Repeat("x", 1000))
		bob.expect(strings.Repeat("x", 1000))
		honest(t, alice, bob)
	})
}

func TestClosedNetworkStartsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		alice := newStage(t).cast("alice", mesh.Config{})
		for range 2 {
			if err := alice.network.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := alice.Start(t.Context()); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Start: %v", err)
		}
		if err := alice.Close(); err != nil {
			t.Errorf("Close of an endpoint that never started: %v", err)
		}
	})
}
