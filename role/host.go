package role

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

// Host keeps the tasks of its process for agents of others, which reach them by a remote.Client: it
// answers their requests. What it may be asked, and by whom, is package remote's business.
//
// Answers that the egress limit refuses wait for it, up to a bound; then they are dropped, and the clients
// ask again. A client that does not take its answers is not answered for a while, so that it does not hold
// up the others; give the host's runtime [HostSendTimeout] as SendTimeout, so that it notices early.
type Host struct {
	desk   *remote.Host
	wake   func()
	detach func()

	// Only the agent's goroutine uses these.
	outbox  outbox
	stalled map[identity.ID]stall
}

// HostSendTimeout is how long a host should let one client's full queue hold it up.
const HostSendTimeout = time.Second

// NewHost checks the configuration and returns a host.
func NewHost(c remote.HostConfig) (*Host, error) {
	desk, err := remote.NewHost(c)
	if err != nil {
		return nil, err
	}
	return &Host{desk: desk, wake: func() {}, detach: func() {}, stalled: map[identity.ID]stall{}}, nil
}

// Stats returns the counts of this moment.
func (h *Host) Stats() remote.HostStats { return h.desk.Stats() }

// SetWake implements converge.Waker.
func (h *Host) SetWake(wake func()) { h.wake = wake }

// OnStart implements converge.Starter.
func (h *Host) OnStart(context.Context) error {
	h.detach = h.desk.Attach(h.wake)
	return nil
}

// OnStop implements converge.Stopper.
func (h *Host) OnStop(context.Context) error {
	h.detach()
	return nil
}

// Decide implements converge.Agent.
func (h *Host) Decide(ctx context.Context, t converge.Turn) ([]converge.Decision, error) {
	now := time.Now()
	h.failed(t.Failures, now)
	var drafts []message.Draft
	for _, m := range t.Messages {
		if now.Before(h.stalled[m.Sender()].until) {
			continue
		}
		if d, ok := h.desk.Answer(ctx, m); ok {
			drafts = append(drafts, d)
		}
	}
	due, next := h.desk.Due(ctx)
	var decisions []converge.Decision
	for _, d := range h.outbox.pass(append(drafts, due...), now) {
		decisions = append(decisions, converge.SendMessage{Draft: d})
	}
	for _, after := range []time.Duration{next, h.outbox.pause(now)} {
		if after > 0 {
			decisions = append(decisions, converge.Wake{After: after})
		}
	}
	return decisions, nil
}

// failed keeps answers that were refused only for now. Who is not reached asks again. Where answers went
// out together and the time was up, the first of them took it.
func (h *Host) failed(failures []converge.Failure, now time.Time) {
	timeIsUp := false
	for _, f := range failures {
		send, ok := f.Decision.(converge.SendMessage)
		if !ok {
			continue
		}
		limit, limited := errors.AsType[*ratelimit.LimitError](f.Err)
		switch {
		case limited && limit.RetryAfter != ratelimit.Never:
			h.outbox.hold(send.Draft, limit.RetryAfter, now)
		case errors.Is(f.Err, transport.ErrQueueFull):
			h.stall(send.Draft.To, now)
		case !isTimeout(f.Err):
		case timeIsUp:
			h.outbox.hold(send.Draft, 0, now)
		default:
			timeIsUp = true
			h.stall(send.Draft.To, now)
		}
	}
}

// isTimeout reports whether a message found no room for the whole send timeout.
func isTimeout(err error) bool {
	send, ok := errors.AsType[*transport.SendError](err)
	return ok && !errors.Is(send.Err, transport.ErrUnreachable) && !errors.Is(send.Err, transport.ErrClosed) && !errors.Is(send.Err, transport.ErrNotStarted)
}

// stall is until when a client that did not take its answers is not answered.
type stall struct {
	until time.Time
	pause time.Duration // doubles each time
}

const (
	minStall   = 10 * time.Second
	maxStall   = 5 * time.Minute
	maxStalled = 4096 // clients; others are answered all the same
)

func (h *Host) stall(client identity.ID, now time.Time) {
	if len(h.stalled) >= maxStalled {
		maps.DeleteFunc(h.stalled, func(_ identity.ID, s stall) bool { return now.After(s.until.Add(maxStall)) })
	}
	s, known := h.stalled[client]
	if !known && len(h.stalled) >= maxStalled {
		return
	}
	s.pause = min(max(2*s.pause, minStall), maxStall)
	s.until = now.Add(s.pause)
	h.stalled[client] = s
}

const (
	maxOutbox  = 16 << 20              // bytes of answers that wait for the egress limit
	outboxTick = 10 * time.Millisecond // between two attempts at least
)

// outbox holds answers that the egress limit has refused, and lets them go at the limit's pace. While
// there are some, all answers go through it, in their order.
type outbox struct {
	drafts []message.Draft
	size   int           // in bytes
	each   time.Duration // how long it takes for the limit to allow one more
	next   time.Time     // when some can go
}

// hold takes in an answer that was refused.
func (o *outbox) hold(d message.Draft, retryAfter time.Duration, now time.Time) {
	if len(o.drafts) == 0 {
		o.next = now.Add(max(retryAfter, outboxTick))
	}
	o.each = max(retryAfter, time.Microsecond)
	o.add(d)
}

func (o *outbox) add(d message.Draft) {
	if o.size+len(d.Body) <= maxOutbox {
		o.drafts = append(o.drafts, d)
		o.size += len(d.Body)
	}
}

// pass returns those that can be sent now: the new ones, if none wait.
func (o *outbox) pass(drafts []message.Draft, now time.Time) []message.Draft {
	if len(o.drafts) == 0 {
		return drafts
	}
	for _, d := range drafts {
		o.add(d)
	}
	if now.Before(o.next) {
		return nil
	}
	tick := max(o.each, outboxTick)
	o.next = now.Add(tick)
	n := min(int(tick/o.each), len(o.drafts))
	free := append([]message.Draft(nil), o.drafts[:n]...)
	clear(o.drafts[:n])
	o.drafts = o.drafts[n:]
	for _, d := range free {
		o.size -= len(d.Body)
	}
	return free
}

// pause returns after what time some can go; 0 if none wait.
func (o *outbox) pause(now time.Time) time.Duration {
	if len(o.drafts) == 0 {
		return 0
	}
	return max(o.next.Sub(now), time.Millisecond)
}
