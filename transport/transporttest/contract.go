package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

var contractTests = []test{
	{"DirectReachesItsRecipientOnly", testDirect},
	{"DirectToItselfArrives", testDirectToItself},
	{"TopicsReachSubscribersOnce", testTopics},
	{"UnsubscribedTopicsStop", testUnsubscribe},
	{"BroadcastReachesAllOthers", testBroadcast},
	{"FramesAreOpaque", testOpaque},
	{"FramesAreNobodyElses", testOwnership},
	{"GarbageDoesNotStopTheListener", testGarbage},
	{"ReceiveEndsWithItsContext", testReceiveContext},
	{"SendEndsWithItsContext", testSendContext},
	{"CloseUnblocksReceive", testCloseUnblocks},
	{"CloseTwiceAndUseAfterwards", testClosed},
	{"UseBeforeStart", testNotStarted},
	{"RequestAndReply", testRequest},
}

// awayTests wait for as long as a transport hopes for an agent that is not there.
var awayTests = []test{
	{"UnknownRecipientIsAnError", testUnknownRecipient},
	{"LeaveAndComeBack", testLeaveAndComeBack},
}

func testDirect(t *testing.T, c *cast) {
	alice, bob, eve := c.enter(), c.enter("orders.>"), c.enter(">")
	alice.mustSend(bob.direct(), "for bob")
	bob.expect("for bob")
	eve.expectNothingBut(alice)
}

func testDirectToItself(t *testing.T, c *cast) {
	alice := c.enter("t")
	alice.mustSend(topics("t"), "nobody hears their own")
	alice.mustSend(alice.direct(), "a note to herself")
	alice.expect("a note to herself")
}

func testUnknownRecipient(t *testing.T, c *cast) {
	alice, nobody := c.enter(), c.hire()
	ctx, cancel := alice.soon()
	defer cancel()
	until(t, "Send to an agent that is not there returns ErrUnreachable", func() bool {
		err := alice.Send(ctx, nobody.direct(), []byte("hello?")) // it may be waited for at first
		if err != nil {
			alice.checkSendError(err, nobody.direct())
		}
		return errors.Is(err, transport.ErrUnreachable)
	})
}

func testTopics(t *testing.T, c *cast) {
	alice := c.enter("orders.>")
	star, tail, both, other := c.enter("orders.*"), c.enter("orders.>"), c.enter("orders.*", "orders.created", "orders.>"), c.enter("invoices.>")
	alice.mustSend(topics("orders.created"), "one segment")
	alice.mustSend(topics("orders.eu.created"), "two segments")
	alice.mustSend(topics("orders.a", "orders.b"), "two topics")
	star.expect("one segment", "two topics")
	tail.expect("one segment", "two segments", "two topics")
	both.expect("one segment", "two segments", "two topics")
	for _, a := range []*actor{star, tail, both, other} {
		a.expectNothingBut(alice)
	}
	alice.expectNothingBut(star) // nobody hears their own
}

func testUnsubscribe(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter("orders.*", "orders.>")
	for range 2 { // ending none is fine
		bob.unsubscribe("orders.*")
	}
	alice.mustSend(topics("orders.created"), "still by the other pattern")
	bob.expect("still by the other pattern")
	bob.unsubscribe("orders.>")
	alice.mustSend(topics("orders.created"), "to nobody")
	bob.expectNothingBut(alice)
}

func testBroadcast(t *testing.T, c *cast) {
	alice, bob, carol := c.enter(), c.enter(), c.enter("orders.>")
	alice.mustSend(transport.Route{}, "to all")
	bob.expect("to all")
	carol.expect("to all")
	alice.expectNothingBut(bob)
}

func testOpaque(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter()
	for _, size := range []int{1, 100, 64 << 10, 1 << 20} {
		frame := make([]byte, size)
		rand.Read(frame)
		alice.mustSend(bob.direct(), string(frame))
		if !bytes.Equal(bob.next(), frame) {
			t.Errorf("a frame of %d random bytes arrived changed", size)
		}
	}
}

func testOwnership(t *testing.T, c *cast) {
	alice, bob, carol := c.enter(), c.enter("t"), c.enter("t")
	frame := []byte("as sent")
	if err := alice.Send(t.Context(), topics("t"), frame); err != nil {
		t.Fatal(err)
	}
	copy(frame, "CHANGED")
	got := bob.next()
	if string(got) != "as sent" {
		t.Errorf("the sender's later change reached the recipient: %q", got)
	}
	copy(got, "CHANGED")
	carol.expect("as sent")
}

// testGarbage wants every honest message to arrive in order, and every other frame to be refused. Those of two
// senders mix in any order: Mallory's last one is sound, so that what arrives before it is all that she sent.
func testGarbage(t *testing.T, c *cast) {
	alice, bob, mallory := c.enter(), c.enter(), c.enter()
	s, v := c.signer(alice), c.verifier(bob)
	for i := range rounds {
		garbage := make([]byte, 1+i*7)
		rand.Read(garbage)
		mallory.mustSend(bob.direct(), string(garbage))
		honest := alice.mustSign(s, bob, fmt.Sprint(i))
		mallory.mustSend(bob.direct(), honest[:len(honest)-1])
		alice.mustSend(bob.direct(), honest)
	}
	mallory.mustSend(bob.direct(), mallory.mustSign(c.signer(mallory), bob, "the last"))
	drops, honest := 0, 0
	for last := false; honest < rounds || !last; {
		ctx, cancel := bob.soon()
		m, err := transport.ReceiveVerified(ctx, bob.Transport, v, func(context.Context, *message.Refusal) { drops++ })
		cancel()
		switch {
		case err != nil:
			t.Fatalf("after %d honest messages: %v", honest, err)
		case m.Sender() == mallory.id.ID() && string(m.Body()) == "the last":
			last = true
		case m.Sender() == alice.id.ID() && string(m.Body()) == fmt.Sprint(honest):
			honest++
		default:
			t.Fatalf("honest message %d arrived as %s, %q", honest, m, m.Body())
		}
	}
	if drops != 2*rounds {
		t.Errorf("%d refused frames were reported, want %d", drops, 2*rounds)
	}
}

// mustSign returns a signed message to another agent.
func (a *actor) mustSign(s *message.Signer, to *actor, body string) (frame string) {
	a.t.Helper()
	m, err := s.Sign(a.t.Context(), message.Draft{To: to.id.ID(), Body: []byte(body)})
	if err != nil {
		a.t.Fatal(err)
	}
	return string(m.Raw())
}

func testReceiveContext(t *testing.T, c *cast) {
	bob := c.enter()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	returned := make(chan error)
	go func() {
		_, err := bob.Receive(ctx)
		returned <- err
	}()
	cancel(cause)
	await(t, returned, cause, "Receive whose context ended")
	alice := c.enter()
	alice.mustSend(bob.direct(), "later")
	bob.expect("later")
}

func testSendContext(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	frame := make([]byte, 4<<10)
	// A transport may still accept frames while its queue has room; in the end it has to heed ctx.
	for range 1 << 16 {
		if err := alice.trySend(ctx, bob.direct(), frame); err != nil {
			if !errors.Is(err, cause) && !errors.Is(err, transport.ErrQueueFull) {
				t.Errorf("Send whose context ended: %v", err)
			}
			return
		}
	}
	t.Error("256 MiB were accepted though the context had ended and nobody received")
}

func testCloseUnblocks(t *testing.T, c *cast) {
	bob := c.enter()
	returned := make(chan error)
	go func() {
		_, err := bob.Receive(context.WithoutCancel(t.Context()))
		returned <- err
	}()
	bob.close()
	await(t, returned, transport.ErrClosed, "Receive of a transport that was closed")
}

func testClosed(t *testing.T, c *cast) {
	alice, bob := c.enter("t"), c.enter()
	for range 2 {
		bob.close()
	}
	if err := bob.Send(t.Context(), alice.direct(), []byte("x")); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Send after Close: %v, want ErrClosed", err)
	}
	if _, err := bob.Receive(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Receive after Close: %v, want ErrClosed", err)
	}
	if err := bob.Subscribe(t.Context(), message.MustPattern("t")); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Subscribe after Close: %v, want ErrClosed", err)
	}
}

func testNotStarted(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.hire()
	if err := bob.Send(t.Context(), alice.direct(), []byte("x")); !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("Send before Start: %v, want ErrNotStarted", err)
	}
	if _, err := bob.Receive(t.Context()); !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("Receive before Start: %v, want ErrNotStarted", err)
	}
}
