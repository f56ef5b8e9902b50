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
		return fmt.Errorf("%s: %w: the runtime has no executor (Config.Executor, Config.Tasks, Config.Pools), only messages are sent", kindLabel(d.Kind()), ErrNotConfigured)
	}
	if err := f.hook(ctx, &s.Draft); err != nil {
		return err
	}
	return f.send(ctx, s.Draft)
}

func (f *fallback) SendAll(ctx context.Context, drafts []message.Draft) []error {
	return sendPassed(ctx, drafts, f.sendAll, func(d *message.Draft) error { return f.hook(ctx, d) })
}

func (f *fallback) ExecuteTasks(ctx context.Context, decisions []Decision) []error {
	errs := make([]error, len(decisions))
	for i, d := range decisions {
		errs[i] = f.Execute(ctx, d)
	}
	return errs
}

// hook has FallbackPreSend, if there is one, change the draft or drop it; its panic drops it too.
func (f *fallback) hook(ctx context.Context, d *message.Draft) (err error) {
	if f.preSend == nil {
		return nil
	}
	defer panics.Catch(&err, "FallbackPreSend")
	changed := f.preSend(ctx, *d)
	if changed == nil {
		return transport.ErrDropped
	}
	*d = *changed
	return nil
}

func (f *fallback) Collect() ([]ToolResult, []task.Task, []task.Task) { return nil, nil, nil }
func (f *fallback) Observe(task.Task)                                 {}
func (f *fallback) Busy() bool                                        { return false }
func (f *fallback) Close(context.Context) error                       { return nil }
func (f *fallback) stats() executorStats                              { return executorStats{} }
