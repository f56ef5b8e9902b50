package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/task"
)

// listTime is how long a page is looked for among tasks that are not meant.
const listTime = 5 * time.Second

// ListTasks implements [control.Tasks]. A page may have fewer tasks than were asked for, though others follow, where few
// of very many are meant.
func (o operator) ListTasks(ctx context.Context, q control.TaskQuery) (control.TaskPage, error) {
	page := control.TaskPage{Tasks: []control.Task{}, Next: q.After}
	if err := o.haveTasks(); err != nil {
		return page, err
	}
	f, err := o.filterOf(&q)
	if err != nil {
		return page, fmt.Errorf("list tasks: %w", err)
	}
	for until := time.Now().Add(listTime); ; {
		found, err := o.tasks.List(ctx, f, q.Limit-len(page.Tasks), page.Next)
		if err != nil {
			return page, meaningOf(err)
		}
		for i := range found.Tasks {
			page.Tasks = append(page.Tasks, o.describe(&found.Tasks[i], control.MaxReason))
		}
		if page.Next = found.Next; page.Next == "" || len(page.Tasks) >= q.Limit || time.Now().After(until) {
			return page, nil
		}
	}
}

func (o operator) haveTasks() error {
	if o.tasks == nil {
		return fmt.Errorf("tasks are %w, but by that of their host, %q", control.ErrElsewhere, o.config.Tasks.Host)
	}
	return nil
}

// filterOf returns what a query means.
func (o operator) filterOf(q *control.TaskQuery) (f task.Filter, err error) {
	f.Kinds, f.Pool, f.Capabilities = q.Kinds, q.Pool, q.Capabilities
	for _, text := range q.States {
		var s task.Status
		if text == control.Dead {
			f.DeadLetters = true
		} else if err := s.UnmarshalText([]byte(text)); err != nil {
			return f, &told{err, control.ErrInvalid}
		} else {
			f.Statuses = append(f.Statuses, s)
		}
	}
	if f.Topics, err = patterns(q.Topics); err != nil {
		return f, &told{err, control.ErrInvalid}
	}
	now := o.tasks.Now()
	if q.Newer > 0 {
		f.CreatedFrom = now.Add(-q.Newer)
	}
	if q.Older > 0 {
		f.CreatedBefore = now.Add(-q.Older)
	}
	if f.Claimant, err = o.meant(q.Worker); err == nil {
		f.Submitter, err = o.meant(q.Submitter)
	}
	return f, err
}

// meant returns the agent of a filter, the zero ID if there is none.
func (o operator) meant(agent string) (identity.ID, error) {
	if agent == "" {
		return identity.ID{}, nil
	}
	return o.agentCalled(agent)
}

// GetTask implements [control.Tasks].
func (o operator) GetTask(ctx context.Context, id string) (control.TaskDetail, error) {
	if err := o.haveTasks(); err != nil {
		return control.TaskDetail{}, err
	}
	t, err := o.tasks.Get(ctx, id)
	if err != nil {
		return control.TaskDetail{}, meaningOf(err)
	}
	d := control.TaskDetail{
		Task: o.describe(&t, task.MaxReason), Capabilities: t.Capabilities, IdempotencyKey: t.IdempotencyKey, Epoch: t.Epoch,
		ClaimTTL: t.ClaimTTL, ClaimExpires: t.ClaimExpires, NotBefore: t.NotBefore, Ready: t.ReadyAt, Deadline: t.Deadline,
		Signed: len(t.ResultProof) > 0, Params: contentOf(t.Params, "application/json"),
	}
	if !t.Topic.IsZero() {
		d.Topic = t.Topic.String()
	}
	if t.Status == task.Completed {
		result := contentOf(t.Result, t.ResultType)
		d.Result = &result
	}
	return d, nil
}

// RequeueTask implements [control.Tasks]. Among agents, that is for the submitter alone; whoever runs the network has
// the store.
func (o operator) RequeueTask(ctx context.Context, id string, by control.Author) (control.Task, error) {
	return o.change(ctx, id, "requeue_task", by, o.tasks.Requeue)
}

// CancelTask implements [control.Tasks].
func (o operator) CancelTask(ctx context.Context, id string, by control.Author) (control.Task, error) {
	return o.change(ctx, id, "cancel_task", by, o.tasks.Cancel)
}

func (o operator) change(
	ctx context.Context, id, action string, by control.Author, change func(context.Context, string, identity.ID) (task.Task, error),
) (control.Task, error) {
	if err := o.haveTasks(); err != nil {
		return control.Task{}, err
	}
	t, err := o.tasks.Get(ctx, id)
	if err != nil {
		return control.Task{}, meaningOf(err)
	}
	err = o.do(ctx, act{action: action, subject: id, peer: t.Claimant}, by, func() (err error) {
		t, err = change(ctx, id, t.Submitter)
		return err
	})
	if err != nil {
		return control.Task{}, meaningOf(err)
	}
	return o.describe(&t, control.MaxReason), nil
}

// meaningOf gives an error of the tasks its meaning for who asks.
func meaningOf(err error) error {
	for cause, meaning := range map[error]error{
		task.ErrNotFound: control.ErrNotFound, task.ErrNotDead: control.ErrState, task.ErrTerminal: control.ErrState, task.ErrInvalid: control.ErrInvalid,
	} {
		if errors.Is(err, cause) {
			return &told{err, meaning}
		}
	}
	return err
}

// describe returns a task without its content.
func (o operator) describe(t *task.Task, maxReason int) control.Task {
	d := control.Task{
		ID: t.ID, Kind: t.Kind, State: t.Status.String(), DeadLetter: t.DeadLetter,
		Priority: t.Priority, Attempts: t.Attempts, MaxAttempts: t.MaxAttempts,
		Worker: o.nameOf(t.Claimant), WorkerID: textUnlessZero(t.Claimant),
		Submitter: o.nameOf(t.Submitter), SubmitterID: textUnlessZero(t.Submitter),
		Pool: t.Pool, Created: t.CreatedAt, Changed: t.UpdatedAt,
	}
	d.Reason, d.ReasonCut = cutText(t.Error, maxReason)
	return d
}

// contentOf returns what people are shown of params or a result.
func contentOf(data []byte, mediaType string) control.Content {
	sum := sha256.Sum256(data)
	c := control.Content{Type: mediaType, Size: len(data), SHA256: hex.EncodeToString(sum[:])}
	switch {
	case json.Valid(data):
		c.Text, c.Cut = approval.Show(data)
	case utf8.Valid(data):
		c.Text, c.Cut = cutText(string(data), control.MaxContent)
	default:
		c.Binary = true
	}
	return c
}

// cutText returns at most n bytes of a text, in whole characters, and whether that is not all.
func cutText(text string, n int) (string, bool) { return cut.Text(text, n), len(text) > n }
