package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// MaxRequests bounds the requests of one [Hooked] that wait for their answers.
const MaxRequests = 1024

// ErrTooManyRequests says that [MaxRequests] requests wait for their answers.
var ErrTooManyRequests = errors.New("too many requests wait for their answers")

// Request sends a draft to one agent (Draft.To) and waits for the answer: the first verified message
// whose sender is that agent and whose InReplyTo is the request. It passes the PostReceive hooks, and
// [Hooked.Receive] does not return it. Answers come in by way of Receive or Deliver, so somebody has to be
// at it. Request waits until ctx ends, and then returns its cause; an answer that comes later is received
// like any message. Other errors are those of [Hooked.Send], and [ErrTooManyRequests].
func (h *Hooked) Request(ctx context.Context, d message.Draft) (*message.Message, error) {
	if d.To.IsZero() {
		return nil, errors.New("request: Draft.To: required; a request goes to one agent")
	}
	m, err := h.sign(ctx, d)
	if err != nil {
		return nil, err
	}
	answer, err := h.requests.begin(m)
	if err != nil {
		return nil, err
	}
	defer h.requests.end(m.ID())
	if err := h.transport.Send(ctx, RouteOf(m), m.Raw()); err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("request %s to %s: no answer: %w", m.ID(), m.To().Short(), context.Cause(ctx))
	}
}

// requests are the ones that wait for their answers.
type requests struct {
	mu   sync.Mutex
	open map[message.ID]request
}

type request struct {
	to     identity.ID
	answer chan *message.Message // room for one
}

func (r *requests) begin(m *message.Message) (<-chan *message.Message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) >= MaxRequests {
		return nil, fmt.Errorf("request to %s: %w (%d)", m.To().Short(), ErrTooManyRequests, MaxRequests)
	}
	if r.open == nil {
		r.open = map[message.ID]request{}
	}
	q := request{to: m.To(), answer: make(chan *message.Message, 1)}
	r.open[m.ID()] = q
	return q.answer, nil
}

func (r *requests) end(id message.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

// answer reports whether m answers a request, and hands it over if so. There is one answer to a request.
func (r *requests) answer(m *message.Message) bool {
	id := m.InReplyTo()
	if id.IsZero() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	q, waits := r.open[id]
	if !waits || q.to != m.Sender() {
		return false
	}
	delete(r.open, id)
	q.answer <- m
	return true
}
