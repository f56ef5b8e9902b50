package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
)

// ErrLimited is the cause of every [LimitError].
var ErrLimited = errors.New("rate limit exceeded")

// LimitError says which limit refused and when to try again.
type LimitError struct {
	Scope      Scope
	RetryAfter time.Duration // Never if waiting does not help
}

// Error implements error.
func (e *LimitError) Error() string {
	if e.RetryAfter == Never {
		return fmt.Sprintf("%v: the %v limit allows nothing", ErrLimited, e.Scope)
	}
	return fmt.Sprintf("%v: %v limit; retry after %v", ErrLimited, e.Scope, e.RetryAfter)
}

// Unwrap returns [ErrLimited].
func (e *LimitError) Unwrap() error { return ErrLimited }

// Err returns nil for an admission and a [*LimitError] for a refusal.
func (r Result) Err() error {
	if r.OK {
		return nil
	}
	return &LimitError{Scope: r.Scope, RetryAfter: r.RetryAfter}
}

// Hook enforces a [Limiter] on what an agent receives: it is a transport.Hook that drops messages
// beyond the limits and counts them (rate_limit_ingress_dropped_total). Hooks see verified messages
// only, so the bucket that a message draws from is that of the agent that signed it. What an agent
// sends passes; its limit is ExecutorConfig.Limiter.
//
// A Hook counts for one agent; agents may share the Limiter. It is safe for concurrent use.
type Hook struct {
	limiter *Limiter
	dropped stat.Vec[Scope]
}

// NewHook returns a hook that enforces l. Without a limiter it drops every message: a missing policy
// denies.
func NewHook(l *Limiter) *Hook { return &Hook{limiter: l} }

// IgnoresDrafts says that PreSend need not be called.
func (h *Hook) IgnoresDrafts() bool { return true }

// PreSend implements transport.Hook: drafts pass.
func (h *Hook) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) { return &d, nil }

// PostReceive implements transport.Hook: a message beyond a limit is dropped.
func (h *Hook) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	r := Result{Scope: ScopeGlobal}
	if h.limiter != nil {
		r = h.limiter.Take(m.Sender(), m.Topics())
	}
	if !r.OK {
		h.dropped.Inc(r.Scope)
		return nil, nil
	}
	return m, nil
}

// Dropped returns how many messages the hook has dropped, by the name of the scope that refused.
func (h *Hook) Dropped() map[string]uint64 { return h.dropped.Snapshot() }
