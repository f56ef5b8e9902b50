package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// testRequest has several goroutines of an agent ask another at a time, while a third answers what it
// was not asked.
func testRequest(t *testing.T, c *cast) {
	alice, bob, mallory := c.hook(c.enter()), c.hook(c.enter()), c.hook(c.enter())
	bob.serve(func(ctx context.Context, m *message.Message) {
		// A copy for mallory, who learns of the request by it.
		bob.tell(ctx, message.Draft{To: mallory.id.ID(), InReplyTo: m.ID(), Body: m.Body()})
		bob.tell(ctx, message.Draft{To: m.Sender(), InReplyTo: m.ID(), Body: append([]byte("re: "), m.Body()...)})
	})
	mallory.serve(func(ctx context.Context, m *message.Message) {
		mallory.tell(ctx, message.Draft{To: alice.id.ID(), InReplyTo: m.InReplyTo(), Body: []byte("forged")})
	})
	alice.serve(func(_ context.Context, m *message.Message) {
		if m.Sender() != mallory.id.ID() {
			t.Errorf("Receive returned the answer to a request: %q", m.Body())
		}
	})
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() { alice.ask(bob, i*100, questions) })
	}
	asking.Wait()
}

// hooked is an actor with a transport.Hooked.
type hooked struct {
	*actor
	hooked *transport.Hooked
}

func (c *cast) hook(a *actor) *hooked {
	c.t.Helper()
	h, err := transport.NewHooked(transport.HookedConfig{Transport: a.Transport, Signer: c.signer(a), Verifier: c.verifier(a)})
	if err != nil {
		c.t.Fatal(err)
	}
	return &hooked{a, h}
}

// serve hands messages to handle until the test ends.
func (h *hooked) serve(handle func(context.Context, *message.Message)) {
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	h.t.Cleanup(func() { cancel(); awaitAll(h.t, &serving, "Receive whose context ended") })
	serving.Go(func() {
		for {
			m, err := h.hooked.Receive(ctx)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, transport.ErrClosed) {
					h.t.Errorf("Receive: %v", err)
				}
				return
			}
			handle(ctx, m)
		}
	})
}

// tell sends a message; while the test lasts, nothing may be in its way.
func (h *hooked) tell(ctx context.Context, d message.Draft) {
	if _, err := h.hooked.Send(ctx, d); err != nil && ctx.Err() == nil {
		h.t.Errorf("Send: %v", err)
	}
}

func (h *hooked) ask(whom *hooked, first, n int) {
	for i := range n {
		ctx, cancel := h.soon()
		question := fmt.Sprint("question ", first+i)
		answer, err := h.hooked.Request(ctx, message.Draft{To: whom.id.ID(), Body: []byte(question)})
		cancel()
		if err != nil {
			h.t.Errorf("Request: %v", err)
			return
		}
		if answer.Sender() != whom.id.ID() || string(answer.Body()) != "re: "+question {
			h.t.Errorf("%q was answered by %q of %s", question, answer.Body(), answer.Sender().Short())
		}
	}
}
