package transporttest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// patience bounds what should happen soon; only a failing test ever waits that long.
var patience = time.Minute

// pause separates two looks at what should happen soon.
func pause() { time.Sleep(2 * time.Millisecond) }

// cast makes the agents of one test.
type cast struct {
	t      *testing.T
	fabric Fabric
	keys   *identity.Registry
}

func newCast(t *testing.T, f Fabric) *cast {
	return &cast{t: t, fabric: f, keys: identity.NewRegistry(0)}
}

// actor is an agent that sends and receives frames.
type actor struct {
	transport.Transport
	t  *testing.T
	id *identity.Identity
}

func newIdentity(t *testing.T) *identity.Identity {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// hire returns an agent whose transport is not started.
func (c *cast) hire() *actor {
	c.t.Helper()
	id := newIdentity(c.t)
	return c.attach(id, c.fabric.Transport(c.t, id))
}

// again returns a new transport for the agent of a, whose own one is closed. It is not started.
func (c *cast) again(a *actor) *actor {
	c.t.Helper()
	return c.attach(a.id, c.fabric.Transport(c.t, a.id))
}

func (c *cast) attach(id *identity.Identity, tr transport.Transport) *actor {
	c.t.Helper()
	if err := c.keys.Register(id.ID(), id.PublicKey()); err != nil {
		c.t.Fatal(err)
	}
	a := &actor{tr, c.t, id}
	c.t.Cleanup(func() { a.close() })
	return a
}

// enter returns an agent whose transport is started.
func (c *cast) enter(patterns ...string) *actor {
	c.t.Helper()
	a := c.hire()
	a.start(patterns...)
	return a
}

func (a *actor) start(patterns ...string) {
	a.t.Helper()
	ctx, cancel := a.soon()
	defer cancel()
	if err := a.Start(ctx); err != nil {
		a.t.Fatalf("Start: %v", err)
	}
	for _, p := range patterns {
		a.subscribe(p)
	}
}

// soon returns a context that outlasts everything but a failure.
func (a *actor) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.t.Context(), patience)
}

func (a *actor) subscribe(pattern string) {
	a.t.Helper()
	ctx, cancel := a.soon()
	defer cancel()
	if err := a.Subscribe(ctx, message.MustPattern(pattern)); err != nil {
		a.t.Fatalf("Subscribe(%q): %v", pattern, err)
	}
}

func (a *actor) unsubscribe(pattern string) {
	a.t.Helper()
	ctx, cancel := a.soon()
	defer cancel()
	if err := a.Unsubscribe(ctx, message.MustPattern(pattern)); err != nil {
		a.t.Fatalf("Unsubscribe(%q): %v", pattern, err)
	}
}

// close closes the transport, and gives up on one that hangs.
func (a *actor) close() {
	a.t.Helper()
	returned := make(chan error, 1)
	go func() { returned <- a.Close() }()
	await(a.t, returned, nil, "Close")
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
	ctx, cancel := a.soon()
	defer cancel()
	if err := a.trySend(ctx, to, []byte(frame)); err != nil {
		a.t.Fatalf("Send to %s: %v", to, err)
	}
}

// trySend sends, and ends the test if Send does not heed ctx.
func (a *actor) trySend(ctx context.Context, to transport.Route, frame []byte) error {
	a.t.Helper()
	returned := make(chan error, 1)
	go func() { returned <- a.Send(ctx, to, frame) }()
	select {
	case err := <-returned:
		return err
	case <-time.After(patience + time.Second):
		a.t.Fatalf("Send to %s still blocks, whatever becomes of its context", to)
		return nil
	}
}

func (a *actor) next() []byte {
	a.t.Helper()
	ctx, cancel := a.soon()
	defer cancel()
	data, err := a.receive(ctx)
	if err != nil {
		a.t.Fatalf("Receive: %v", err)
	}
	return data
}

// receive returns the next frame's data, and acknowledges the frame.
func (a *actor) receive(ctx context.Context) ([]byte, error) {
	frame, err := a.Receive(ctx)
	if err == nil && frame.Done != nil {
		frame.Done()
	}
	return frame.Data, err
}

func (a *actor) expect(frames ...string) {
	a.t.Helper()
	for _, want := range frames {
		if got := a.next(); string(got) != want {
			a.t.Fatalf("received %s, want %s", brief(got), brief([]byte(want)))
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

// checkSendError reports an error of Send that does not say what was not sent.
func (a *actor) checkSendError(err error, to transport.Route) {
	a.t.Helper()
	sendErr, ok := errors.AsType[*transport.SendError](err)
	if !ok || sendErr.Route.To != to.To || sendErr.Missed < 1 {
		a.t.Errorf("Send to %s: %v, want a *SendError with the route and how many missed it", to, err)
	}
}

// until polls a condition.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); pause() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// await checks what returns, and that something does.
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

// awaitAll waits for goroutines, and gives up on those that hang.
func awaitAll(t *testing.T, running *sync.WaitGroup, what string) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { running.Wait(); ended <- nil }()
	await(t, ended, nil, what)
}

func brief(frame []byte) string {
	const most = 60
	if len(frame) <= most {
		return string(frame)
	}
	return string(frame[:most]) + "…"
}
