package converge

import (
	"context"
	"fmt"

	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// fallback is the path of decisions in a runtime that has no executor: messages are sent, and any other
// decision fails.
type fallback struct {
	send    func(context.Context, message.Draft) error
	sendAll func(context.Context, []message.Draft) []error
	preSend func(context.Context, message.Draft) *message.Draft
}

func (f *fallback) Execute(ctx context.Context, d Decision) error {
	s, ok := d.(SendMessage)
	if !ok {
		return fmt.Errorf("%s: %w: the runtime has no executor (Config.Executor, Config.Tasks), only messages are sent", kindLabel(d.Kind()), ErrNotConfigured)
	}
	draft, err := f.hook(ctx, s.Draft)
	if err != nil {
		return err
	}
	return f.send(ctx, draft)
}

func (f *fallback) SendAll(ctx context.Context, sends []SendMessage) []error {
	return sendPassed(ctx, sends, f.sendAll, func(d message.Draft) (message.Draft, error) { return f.hook(ctx, d) })
}

// hook runs FallbackPreSend, if there is one; its panic drops the message.
func (f *fallback) hook(ctx context.Context, d message.Draft) (_ message.Draft, err error) {
	if f.preSend == nil {
		return d, nil
	}
	defer panics.Catch(&err, "FallbackPreSend")
	draft := f.preSend(ctx, d)
	if draft == nil {
		return d, transport.ErrDropped
	}
	return *draft, nil
}

func (f *fallback) Collect() ([]ToolResult, []task.Task, []task.Task) { return nil, nil, nil }
func (f *fallback) Observe(task.Task)                                 {}
func (f *fallback) Busy() bool                                        { return false }
func (f *fallback) Close(context.Context) error                       { return nil }
func (f *fallback) stats() executorStats                              { return executorStats{} }
