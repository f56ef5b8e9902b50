package transport

import (
	"context"
	"fmt"
	"slices"

	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
)

// Hook is middleware on both directions. Hooks run in the order of their registration, in both
// directions. Returning nil drops the message; the drop is counted and later hooks do not run.
// Returning an error or panicking drops it too, and reaches the OnError of every hook that is an
// [ErrorHook]. Hooks are called from several goroutines at once and should not block for long: while
// one runs, its direction waits.
type Hook interface {
	// PreSend sees a draft before it is signed, and may return it, a changed one, or nil. It is not called
	// if the hook has a method IgnoresDrafts() bool that returned true when it was registered.
	PreSend(ctx context.Context, d message.Draft) (*message.Draft, error)
	// PostReceive sees a message after it was verified, and may return it, one with another body
	// (message.Message.WithBody), or nil.
	PostReceive(ctx context.Context, m *message.Message) (*message.Message, error)
}

// ErrorHook is a [Hook] that wants to know of hooks that failed, its own failures included. The
// message is nil for [StagePreSend], where none exists yet.
type ErrorHook interface {
	OnError(stage Stage, err error, m *message.Message)
}

// Stage is a point at which hooks run.
type Stage uint8

// The stages.
const (
	StagePreSend Stage = iota + 1
	StagePostReceive
)

// String returns "pre_send" or "post_receive".
func (s Stage) String() string {
	switch s {
	case StagePreSend:
		return "pre_send"
	case StagePostReceive:
		return "post_receive"
	default:
		return "unknown"
	}
}

// OnSend makes a hook of a function that sees drafts; messages pass.
func OnSend(f func(context.Context, message.Draft) (*message.Draft, error)) Hook {
	return hookFuncs{pre: f}
}

// OnReceive makes a hook of a function that sees messages; drafts pass.
func OnReceive(f func(context.Context, *message.Message) (*message.Message, error)) Hook {
	return hookFuncs{post: f}
}

// ignoresDrafts reports whether a hook's PreSend need not be called.
func ignoresDrafts(h Hook) bool {
	i, ok := h.(interface{ IgnoresDrafts() bool })
	return ok && i.IgnoresDrafts()
}

func (h hookFuncs) IgnoresDrafts() bool { return h.pre == nil }

type hookFuncs struct {
	pre  func(context.Context, message.Draft) (*message.Draft, error)
	post func(context.Context, *message.Message) (*message.Message, error)
}

func (h hookFuncs) PreSend(ctx context.Context, d message.Draft) (*message.Draft, error) {
	if h.pre == nil {
		return &d, nil
	}
	return h.pre(ctx, d)
}

func (h hookFuncs) PostReceive(ctx context.Context, m *message.Message) (*message.Message, error) {
	if h.post == nil {
		return m, nil
	}
	return h.post(ctx, m)
}

// hooks runs a list of hooks and counts what they drop.
type hooks struct {
	list    []Hook
	senders []Hook // those of list that look at drafts
	dropped stat.Vec[Stage]
	failed  stat.Vec[Stage]
}

func newHooks(list []Hook) hooks {
	return hooks{list: list, senders: slices.DeleteFunc(slices.Clone(list), ignoresDrafts)}
}

// preSend returns the draft that is to be signed, or nil if a hook dropped it.
func (h *hooks) preSend(ctx context.Context, d *message.Draft) (*message.Draft, error) {
	current := d
	for _, hook := range h.senders {
		next, err := guarded(func() (*message.Draft, error) { return hook.PreSend(ctx, *current) })
		if err != nil {
			h.fail(StagePreSend, err, nil)
			return nil, err
		}
		if next == nil {
			h.dropped.Inc(StagePreSend)
			return nil, nil
		}
		current = next
	}
	return current, nil
}

// postReceive returns the message that goes on, or nil if a hook dropped it.
func (h *hooks) postReceive(ctx context.Context, m *message.Message) (*message.Message, error) {
	current := m
	for _, hook := range h.list {
		next, err := guarded(func() (*message.Message, error) { return hook.PostReceive(ctx, current) })
		if err == nil && next != nil && (next.ID() != m.ID() || next.Verified() != m.Verified()) {
			err = fmt.Errorf("hook %T returned another message than it was given", hook)
		}
		if err != nil {
			h.fail(StagePostReceive, err, current)
			return nil, err
		}
		if next == nil {
			h.dropped.Inc(StagePostReceive)
			return nil, nil
		}
		current = next
	}
	return current, nil
}

func (h *hooks) fail(stage Stage, err error, m *message.Message) {
	h.failed.Inc(stage)
	for _, hook := range h.list {
		if observer, ok := hook.(ErrorHook); ok {
			guarded(func() (*struct{}, error) { observer.OnError(stage, err, m); return nil, nil })
		}
	}
}

// guarded calls f and turns its panic into an error.
func guarded[T any](f func() (*T, error)) (result *T, err error) {
	defer panics.Catch(&err, "hook")
	return f()
}
