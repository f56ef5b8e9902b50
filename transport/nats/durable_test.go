package nats_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// fastDir returns a directory in memory, where there is one: syncing is slow, and nothing in these tests
// depends on a disk.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "converge")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func durable(t *testing.T) nats.Config {
	return nats.Config{
		Server:  nats.Server{StoreDir: fastDir(t)},
		Durable: nats.Durable{Enabled: true, MaxPending: 1000},
	}
}

func TestDurableServerSyncsEveryWrite(t *testing.T) {
	n := newNetwork(t, durable(t))
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !n.SyncAlways() {
		t.Error("a write that is acknowledged may not be on disk")
	}
}

func TestDurableSendToAnAgentThatNeverWasIsAnError(t *testing.T) {
	n := newNetwork(t, durable(t))
	alice := join(t, n)
	err := alice.try(transport.Route{To: newIdentity(t).ID()}, "hello?")
	if !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("Send: %v, want ErrUnreachable", err)
	}
}

// TestAgentThatWasAwayGetsWhatWaited: direct frames, broadcasts, and topics that it subscribes to again
// before it receives.
func TestAgentThatWasAwayGetsWhatWaited(t *testing.T) {
	n := newNetwork(t, durable(t))
	alice, bob := join(t, n), join(t, n, "kept.>", "dropped")
	bob.Close()
	alice.send(bob.route(), "direct")
	alice.send(topics("dropped"), "not subscribed to any more")
	alice.send(topics("kept.a"), "topic")
	alice.send(transport.Route{}, "broadcast")
	again := joinAs(t, n, bob.id, "kept.>")
	again.expect("direct", "topic", "broadcast")
	again.expectNothingBut(alice)
}

func TestForgottenAgentIsUnreachable(t *testing.T) {
	n := newNetwork(t, durable(t))
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "hello")
	if err := bob.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob.Close()
	until(t, "Send to an agent that left for good returns ErrUnreachable", func() bool {
		return errors.Is(alice.try(bob.route(), "x"), transport.ErrUnreachable)
	})
}

// TestFrameThatWasNotAcknowledgedComesAgain ends an agent between receiving and acknowledging, several
// times. The verifier outlives it, as one does whose marks are stored.
func TestFrameThatWasNotAcknowledgedComesAgain(t *testing.T) {
	n := newNetwork(t, durable(t))
	keys := identity.NewRegistry(0)
	alice := join(t, n).speaks(keys)
	id := newIdentity(t)
	bob := joinAs(t, n, id, "t").speaks(keys, "t")
	alice.tell(bob, "direct")
	alice.announce("t", "topic")
	got := map[string]int{}
	for crash := range 3 {
		for range 2 {
			frame := bob.nextFrame() // and no Done
			m, err := bob.verifier.Verify(frame.Data)
			if err == nil {
				got[string(m.Body())]++
			} else if crash == 0 || !errors.Is(err, message.ErrReplayed) {
				t.Errorf("run %d: %v", crash, err)
			}
		}
		bob.Close()
		bob.agent = joinAs(t, n, id, "t")
	}
	for range 2 {
		bob.nextFrame().Done()
	}
	if got["direct"] != 1 || got["topic"] != 1 {
		t.Errorf("accepted %v, want each message once", got)
	}
	bob.Close()
	bob.agent = joinAs(t, n, id, "t")
	bob.expectNothingBut(alice.agent)
}

// TestStoredMessagesOfARevokedSenderAreDropped revokes an agent whose messages the broker keeps, one of which was
// delivered already, but not acknowledged.
func TestStoredMessagesOfARevokedSenderAreDropped(t *testing.T) {
	n := newNetwork(t, durable(t))
	keys := identity.NewRegistry(0)
	mallory := join(t, n).speaks(keys)
	id := newIdentity(t)
	bob := joinAs(t, n, id).speaks(keys)
	mallory.tell(bob, "not acknowledged")
	bob.nextFrame()
	bob.Close()
	mallory.tell(bob, "stored")
	raw, err := mallory.id.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Apply(raw); err != nil {
		t.Fatal(err)
	}
	bob.agent = joinAs(t, n, id)
	for range 2 {
		frame := bob.nextFrame()
		if m, err := bob.verifier.Verify(frame.Data); !errors.Is(err, message.ErrRevoked) {
			t.Errorf("%v, %v", m, err)
		}
		frame.Done()
	}
}

// TestLostAcknowledgementIsMadeUpFor: a frame comes again that the agent does not acknowledge in time, but
// the agent does not see it while it still has it.
func TestLostAcknowledgementIsMadeUpFor(t *testing.T) {
	t.Parallel()
	c := durable(t)
	c.Durable.AckWait = time.Second // of which a busy machine may take some
	n := newNetwork(t, c)
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "slowly")
	alice.send(bob.route(), "meanwhile")
	slow := bob.nextFrame()
	bob.expect("meanwhile")
	ctx, cancel := context.WithTimeout(t.Context(), 2*c.Durable.AckWait+c.Durable.AckWait/2)
	defer cancel()
	if frame, err := bob.Receive(ctx); err == nil {
		t.Errorf("%q came a second time while the agent had it", frame.Data)
	}
	slow.Done()
	slow.Done() // twice is fine
	alice.send(bob.route(), "marker")
	again := 0
	for frame := bob.nextFrame(); string(frame.Data) != "marker"; frame = bob.nextFrame() {
		if again++; string(frame.Data) != "slowly" || again > 1 { // once it may have been on its way
			t.Errorf("%q came a second time", frame.Data)
		}
		frame.Done()
	}
}

// TestFrameThatIsNeverDealtWithComesAgain: one that the agent has lost does not occupy a place for ever.
func TestFrameThatIsNeverDealtWithComesAgain(t *testing.T) {
	t.Parallel()
	c := durable(t)
	c.Durable.AckWait, c.Durable.InFlight = time.Second, 1 // acknowledgements may take some of it
	n := newNetwork(t, c)
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "lost")
	alice.send(bob.route(), "next")
	bob.nextFrame()
	bob.expect("lost", "next")
}

func TestStoredFramesSurviveTheServer(t *testing.T) {
	c := durable(t)
	c.Server.StoreDir = t.TempDir()
	c.Durable.AckWait = time.Second // a server that restarts does not know that frames were handed back
	first := newNetwork(t, c)
	alice, bob := join(t, first), join(t, first, "t")
	const frames = 20
	for i := range frames {
		route := bob.route()
		if i%2 == 1 {
			route = topics("t")
		}
		alice.send(route, fmt.Sprint(i))
	}
	bob.expect("0")
	first.Close()
	second := newNetwork(t, c)
	again := joinAs(t, second, bob.id, "t")
	// Those that the first server had on their way come again after AckWait, behind those that it had not.
	got := map[string]int{}
	for len(got) < frames-1 {
		frame := again.nextFrame()
		got[string(frame.Data)]++
		frame.Done()
	}
	for i := 1; i < frames; i++ {
		if got[fmt.Sprint(i)] == 0 {
			t.Errorf("frame %d is lost: %v", i, got)
		}
	}
	again.expectNothingBut(joinAs(t, second, alice.id))
}

func TestDurableSendWaitsForRoomOrSaysThatThereIsNone(t *testing.T) {
	for _, policy := range []transport.WhenFull{transport.Block, transport.DropNewest} {
		c := durable(t)
		c.WhenFull, c.Durable.MaxPending = policy, 10
		n := newNetwork(t, c)
		alice, bob, carol := join(t, n), join(t, n), join(t, n)
		bob.Close()
		for i := range 10 {
			alice.send(bob.route(), fmt.Sprint(i))
		}
		enough, most := errors.New("enough"), patience
		if policy == transport.Block {
			most = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), most, enough)
		err := alice.Send(ctx, bob.route(), []byte("one more"))
		cancel()
		if policy == transport.Block && !errors.Is(err, enough) || policy == transport.DropNewest && !errors.Is(err, transport.ErrQueueFull) {
			t.Errorf("policy %d: Send to an agent for whom there is no room: %v", policy, err)
		}
		alice.send(carol.route(), "others are not concerned")
		carol.expect("others are not concerned")
		again := joinAs(t, n, bob.id)
		for i := range 10 {
			again.expect(fmt.Sprint(i))
		}
		until(t, "there is room again, once what was received is acknowledged", func() bool {
			return !errors.Is(alice.try(bob.route(), "room again"), transport.ErrQueueFull)
		})
		again.expect("room again")
	}
}

// TestSendersOfTheCoreModeReachDurableAgents and are bounded by them as by others.
func TestSendersOfTheCoreModeReachDurableAgents(t *testing.T) {
	broker := newNetwork(t, listening(durable(t)))
	bob := join(t, broker, "t")
	alice := join(t, newNetwork(t, nats.Config{URL: "nats://" + broker.Addr().String()}), "t")
	for i := range 2000 {
		alice.send(bob.route(), fmt.Sprint(i))
		bob.expect(fmt.Sprint(i))
	}
	alice.send(topics("t"), "topic")
	alice.send(transport.Route{}, "broadcast")
	bob.expect("topic", "broadcast")
	bob.send(topics("t"), "topic back")
	bob.send(transport.Route{}, "broadcast back")
	alice.expect("topic back", "broadcast back")
}

func TestStreamThatKeepsLessIsRefused(t *testing.T) {
	c := durable(t)
	broker := newNetwork(t, listening(c))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(stranger(t, broker))
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: broker.Stream(), Subjects: []string{"converge.test.>"}, Storage: jetstream.MemoryStorage, NoAck: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := startError(t, broker); !strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), broker.Stream()) {
		t.Errorf("Start on a stream in memory: %v", err)
	}
}

func TestBrokerWithoutJetStreamIsAnError(t *testing.T) {
	broker := newNetwork(t, listening(nats.Config{}))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, nats.Config{URL: "nats://" + broker.Addr().String(), Durable: nats.Durable{Enabled: true}})
	if err := startError(t, n); !strings.Contains(err.Error(), "jetstream not enabled") {
		t.Errorf("Start: %v", err)
	}
}

// TestRemovedConsumerIsMadeAgain: a stranger with the right to do so removes what an agent has at the broker.
func TestRemovedConsumerIsMadeAgain(t *testing.T) {
	broker := newNetwork(t, listening(durable(t)))
	alice, bob := join(t, broker), join(t, broker)
	alice.send(bob.route(), "before")
	bob.expect("before")
	js, err := jetstream.New(stranger(t, broker))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), broker.Stream(), "agent-"+bob.id.ID().String()); err != nil {
		t.Fatal(err)
	}
	until(t, "the agent is there again", func() bool {
		if alice.try(bob.route(), "after") != nil {
			return false
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		frame, err := bob.Receive(ctx)
		if err == nil {
			frame.Done()
		}
		return err == nil && string(frame.Data) == "after"
	})
}
