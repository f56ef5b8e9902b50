package converge

import (
	"context"
	"sync"
	"time"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/transport"
)

// Refusals have a receipt each up to refusalsEach a second and reason; of more, receipts give the number: a flood
// of garbage must not fill the disk.
const (
	refusalsEach   = 10
	refusalsWindow = time.Second
)

// refusals writes receipts of what was refused.
type refusals struct {
	add func(*audit.Receipt)

	mu     sync.Mutex
	noted  map[string]uint64 // in this window, by reason
	timer  *time.Timer       // ends the window; nil if there is none
	closed bool
}

// note records a refusal.
func (f *refusals) note(reason string, r audit.Receipt) {
	f.mu.Lock()
	if f.noted == nil {
		f.noted = map[string]uint64{}
	}
	f.noted[reason]++
	more := f.noted[reason] > refusalsEach && !f.closed
	if f.timer == nil && !f.closed {
		f.timer = time.AfterFunc(refusalsWindow, f.end)
	}
	f.mu.Unlock()
	if !more {
		r.Kind, r.Outcome, r.Reason = audit.KindRefusal, "refused", reason
		f.add(&r)
	}
}

// end ends a window, and records what had no receipt of its own.
func (f *refusals) end() {
	f.mu.Lock()
	noted := f.noted
	f.noted, f.timer = nil, nil
	f.mu.Unlock()
	for reason, n := range noted {
		if n > refusalsEach {
			f.add(&audit.Receipt{Kind: audit.KindRefusal, Outcome: "refused", Reason: reason, Count: n - refusalsEach})
		}
	}
}

// close records what is left. Later refusals have a receipt each.
func (f *refusals) close() {
	f.mu.Lock()
	f.closed = true
	timer := f.timer
	f.mu.Unlock()
	if timer != nil && timer.Stop() {
		f.end()
	}
}

// onRefused returns the callback for frames that verification has refused.
func (t *trail) onRefused(then func(context.Context, *message.Refusal)) func(context.Context, *message.Refusal) {
	if t == nil {
		return then
	}
	return func(ctx context.Context, r *message.Refusal) {
		t.refusals.note(r.Reason.String(), audit.Receipt{Action: "verify", Peer: r.Sender})
		if then != nil {
			then(ctx, r)
		}
	}
}

// watch returns hooks whose drops are recorded.
func (t *trail) watch(hooks []transport.Hook) []transport.Hook {
	if t == nil {
		return hooks
	}
	watched := make([]transport.Hook, len(hooks))
	for i, h := range hooks {
		reason := "hook"
		if _, limit := h.(*ratelimit.Hook); limit {
			reason = "rate_limit"
		}
		watched[i] = &watchedHook{h, reason, t}
	}
	return watched
}

// watchedHook is a hook whose drops are recorded.
type watchedHook struct {
	transport.Hook
	reason string
	trail  *trail
}

// PostReceive implements transport.Hook.
func (h *watchedHook) PostReceive(ctx context.Context, m *message.Message) (passed *message.Message, err error) {
	ended := false
	defer func() { // also after a panic
		if !ended || err != nil || passed == nil {
			h.trail.refusals.note(h.reason, audit.Receipt{Action: "hook", Subject: m.ID().String(), Peer: m.Sender()})
		}
	}()
	passed, err = h.Hook.PostReceive(ctx, m)
	ended = true
	return passed, err
}

// IgnoresDrafts reports whether the hook does.
func (h *watchedHook) IgnoresDrafts() bool {
	i, ok := h.Hook.(interface{ IgnoresDrafts() bool })
	return ok && i.IgnoresDrafts()
}

// OnError implements transport.ErrorHook.
func (h *watchedHook) OnError(stage transport.Stage, err error, m *message.Message) {
	if observer, ok := h.Hook.(transport.ErrorHook); ok {
		observer.OnError(stage, err, m)
	}
}
