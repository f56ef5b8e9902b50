package converge

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

// Tasks is where an agent's tasks are: a [task.Manager] in this process, or a [remote.Client] of one in
// another. See package task for what the methods do and which errors they return.
//
// A value with a method Bind(remote.Binding) error is bound to the runtime's agent by [New], and its
// requests count against the egress limit: they wait where a message would be refused. Since answers must
// not wait behind other messages, a runtime with such tasks drops messages for which its inbox has no
// room, whatever InboxConfig.WhenFull says.
//
// A value with a method Do(context.Context, []remote.Op) []remote.Result carries out several operations
// at once; see [StandardExecutor.ExecuteTasks].
type Tasks interface {
	Submit(ctx context.Context, s task.Spec) (task.Task, error)
	Claim(ctx context.Context, id string, p task.Profile) (task.Claim, task.Task, error)
	Heartbeat(ctx context.Context, c task.Claim) (task.Claim, error)
	End(ctx context.Context, e task.Ending) (task.Task, error)
	Release(ctx context.Context, c task.Claim) (task.Task, error)
	Cancel(ctx context.Context, id string, by identity.ID) (task.Task, error)
	Visible(p task.Profile, limit int) []task.Task
	Attach(fn func(task.Task)) (detach func())
}

var (
	_ Tasks = (*task.Manager)(nil)
	_ Tasks = (*remote.Client)(nil)
)

// binder is [Tasks] that need somebody to send requests.
type binder interface {
	Bind(b remote.Binding) error
}

// batcher is [Tasks] that carry out several operations at once.
type batcher interface {
	Do(ctx context.Context, ops []remote.Op) []remote.Result
}

// orNil returns nil for a nil pointer, such as that of a task.Manager that was not made.
func orNil(t Tasks) Tasks {
	if v := reflect.ValueOf(t); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	return t
}

// bindTasks gives remote tasks the means to send requests.
func (r *Runtime) bindTasks() error {
	b, ok := r.config.Tasks.(binder)
	if !ok {
		return nil
	}
	return b.Bind(remote.Binding{
		Requester: requester{r.hooked, r.executor}, Profile: r.profile, Window: r.config.TurnTasks, Logger: r.log,
	})
}

// hasRemoteTasks reports whether the agent's tasks need answers to requests.
func (c *Config) hasRemoteTasks() bool {
	_, ok := c.Tasks.(binder)
	return ok
}

// requester sends requests under the egress limit.
type requester struct {
	hooked   *transport.Hooked
	executor executor
}

// Request implements remote.Requester.
func (q requester) Request(ctx context.Context, d message.Draft) (*message.Message, error) {
	if e, ok := q.executor.(*StandardExecutor); ok {
		if err := e.awaitLimit(ctx, d.Topics); err != nil {
			return nil, err
		}
	}
	return q.hooked.Request(ctx, d)
}

// awaitLimit takes the tokens of one message out of the egress buckets as soon as they have them.
func (e *StandardExecutor) awaitLimit(ctx context.Context, topics []message.Topic) error {
	if e.limiter == nil {
		return nil
	}
	for {
		r := e.limiter.Take(e.env.Agent, topics)
		if r.OK {
			return nil
		}
		deadline, bounded := ctx.Deadline()
		if bounded && time.Until(deadline) < r.RetryAfter {
			e.limited.Inc(r.Scope)
			return r.Err()
		}
		if err := sleep.For(ctx, r.RetryAfter); err != nil {
			return err
		}
	}
}

// errTooLate refuses a message that comes while the agent stops, and a claim of its own.
var errTooLate = errors.New("the agent is stopping")

// receiveAnswers goes on receiving the answers to requests until ctx ends, if the agent's tasks are remote ones: also
// those that the turn waits for that is under way when the agent is stopped. Other messages come too late.
func (r *Runtime) receiveAnswers(ctx context.Context) {
	if !r.config.hasRemoteTasks() {
		return
	}
	refuse := func(context.Context, *message.Message) error { return errTooLate }
	for err := errTooLate; errors.Is(err, errTooLate); {
		err = r.hooked.Deliver(ctx, refuse)
	}
}

// isLateAnswer reports whether a message is the answer to a request that nobody waits for any more.
func (r *Runtime) isLateAnswer(m *message.Message) bool {
	return m.ContentType() == remote.ReplyType && r.config.hasRemoteTasks()
}
