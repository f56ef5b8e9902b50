// Package transporttest is the suite that every transport passes.
package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// patience bounds what should happen at once; only a failing test ever waits that long.
const patience = 10 * time.Second

// Fabric makes transports that reach each other.
type Fabric interface {
	// Transport returns a transport for the identity, not started.
	Transport(t *testing.T, id *identity.Identity) transport.Transport
}

// Run runs the suite; each test gets a fabric of its own.
func Run(t *testing.T, newFabric func(t *testing.T) Fabric) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cast)
	}{
		{"DirectReachesItsRecipientOnly", testDirect},
		{"UnknownRecipientIsAnError", testUnknownRecipient},
		{"TopicsReachSubscribersOnce", testTopics},
		{"UnsubscribedTopicsStop", testUnsubscribe},
		{"BroadcastReachesAllOthers", testBroadcast},
		{"OneSendersOrderIsKept", testOrder},
		{"ManySendersLoseNothing", testManySenders},
		{"FramesAreOpaque", testOpaque},
		{"FramesAreNobodyElses", testOwnership},
		{"GarbageDoesNotStopTheListener", testGarbage},
		{"ReceiveEndsWithItsContext", testReceiveContext},
		{"SendEndsWithItsContext", testSendContext},
		{"CloseUnblocksReceive", testCloseUnblocks},
		{"CloseTwiceAndUseAfterwards", testClosed},
		{"UseBeforeStart", testNotStarted},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, &cast{t: t, fabric: newFabric(t)}) })
	}
}

// cast makes agents for one test.
type cast struct {
	t      *testing.T
	fabric Fabric
}

type actor struct {
	transport.Transport
	t  *testing.T
	id *identity.Identity
}

// hire returns an agent whose transport is not started.
func (c *cast) hire() *actor {
	c.t.Helper()
	id, err := identity.Generate()
	if err != nil {
		c.t.Fatal(err)
	}
	a := &actor{c.fabric.Transport(c.t, id), c.t, id}
	c.t.Cleanup(func() { a.Close() })
	return a
}

// enter returns an agent whose transport is started.
func (c *cast) enter(patterns ...string) *actor {
	c.t.Helper()
	a := c.hire()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := a.Start(ctx); err != nil {
		c.t.Fatalf("Start: %v", err)
	}
	for _, p := range patterns {
		if err := a.Subscribe(ctx, message.MustPattern(p)); err != nil {
			c.t.Fatalf("Subscribe(%q): %v", p, err)
		}
	}
	return a
}

func (a *actor) direct() transport.Route { return transport.Route{To: a.id.ID()} }

func topics(texts ...string) transport.Route {
	var r transport.Route
	for _, text := range texts {
		r.Topics = append(r.Topics, message.MustTopic(text))
	}
	return r
}

func (a *actor) mustSend(to transport.Route, frame string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	if err := a.Send(ctx, to, []byte(frame)); err != nil {
		a.t.Fatalf("Send to %s: %v", to, err)
	}
}

func (a *actor) next() []byte {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	frame, err := a.Receive(ctx)
	if err != nil {
		a.t.Fatalf("Receive: %v", err)
	}
	return frame.Data
}

func (a *actor) expect(frames ...string) {
	a.t.Helper()
	for _, want := range frames {
		if got := a.next(); string(got) != want {
			a.t.Fatalf("received %q, want %q", got, want)
		}
	}
}

// expectNothingBut checks that what arrives next is a marker that from sends now: on one path, what was
// sent earlier would have arrived earlier.
func (a *actor) expectNothingBut(from *actor) {
	a.t.Helper()
	from.mustSend(a.direct(), "marker")
	a.expect("marker")
}

func testDirect(t *testing.T, c *cast) {
	alice, bob, eve := c.enter(), c.enter("orders.>"), c.enter(">")
	alice.mustSend(bob.direct(), "for bob")
	bob.expect("for bob")
	eve.expectNothingBut(alice)
}

func testUnknownRecipient(t *testing.T, c *cast) {
	alice, nobody := c.enter(), c.hire()
	err := alice.Send(t.Context(), nobody.direct(), []byte("hello?"))
	sendErr, ok := errors.AsType[*transport.SendError](err)
	if !ok || !errors.Is(err, transport.ErrUnreachable) || sendErr.Route.To != nobody.id.ID() {
		t.Errorf("Send to an agent that is not there: %v, want a SendError with its ID and ErrUnreachable", err)
	}
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
		if err := bob.Unsubscribe(t.Context(), message.MustPattern("orders.*")); err != nil {
			t.Fatal(err)
		}
	}
	alice.mustSend(topics("orders.created"), "still by the other pattern")
	bob.expect("still by the other pattern")
	if err := bob.Unsubscribe(t.Context(), message.MustPattern("orders.>")); err != nil {
		t.Fatal(err)
	}
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
	const senders, each = 8, 200
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

func testGarbage(t *testing.T, c *cast) {
	alice, bob, mallory := c.enter(), c.enter(), c.enter()
	registry := identity.NewRegistry(0)
	if err := registry.Register(alice.id.ID(), alice.id.PublicKey()); err != nil {
		t.Fatal(err)
	}
	v, err := message.NewVerifier(message.VerifierConfig{Self: bob.id.ID(), Network: "test", Keys: registry})
	if err != nil {
		t.Fatal(err)
	}
	s, err := message.NewSigner(message.SignerConfig{Identity: alice.id, Network: "test"})
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 50
	for i := range rounds {
		garbage := make([]byte, 1+i*7)
		rand.Read(garbage)
		mallory.mustSend(bob.direct(), string(garbage))
		m, err := s.Sign(t.Context(), message.Draft{To: bob.id.ID(), Body: fmt.Append(nil, i)})
		if err != nil {
			t.Fatal(err)
		}
		mallory.mustSend(bob.direct(), string(m.Raw()[:len(m.Raw())-1]))
		alice.mustSend(bob.direct(), string(m.Raw()))
	}
	drops := 0
	for i := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		m, err := transport.ReceiveVerified(ctx, bob.Transport, v, func(context.Context, *message.Refusal) { drops++ })
		cancel()
		if err != nil {
			t.Fatalf("after %d honest messages: %v", i, err)
		}
		if string(m.Body()) != fmt.Sprint(i) || m.Sender() != alice.id.ID() {
			t.Fatalf("honest message %d arrived as %s, %q", i, m, m.Body())
		}
	}
	if drops == 0 {
		t.Error("no refused frame was reported")
	}
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
	// A transport may still accept frames while its queue has room; in the end it has to heed ctx.
	for range 1 << 20 {
		if err := alice.Send(ctx, bob.direct(), []byte("x")); err != nil {
			if !errors.Is(err, cause) && !errors.Is(err, transport.ErrQueueFull) {
				t.Errorf("Send whose context ended: %v", err)
			}
			return
		}
	}
	t.Error("a million frames were accepted though the context had ended and nobody received")
}

func testCloseUnblocks(t *testing.T, c *cast) {
	bob := c.enter()
	returned := make(chan error)
	go func() {
		_, err := bob.Receive(context.WithoutCancel(t.Context()))
		returned <- err
	}()
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, returned, transport.ErrClosed, "Receive of a transport that was closed")
}

func testClosed(t *testing.T, c *cast) {
	alice, bob := c.enter("t"), c.enter()
	for range 2 {
		if err := bob.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
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

func await(t *testing.T, returned <-chan error, want error, what string) {
	t.Helper()
	select {
	case err := <-returned:
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	case <-time.After(patience):
		t.Fatalf("%s still blocks", what)
	}
}
