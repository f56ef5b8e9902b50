package remote

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

// deed is an operation that an agent wants carried out. What the manager refuses because it has been
// carried out already is as good as done: the answer was lost, and the client has asked again.
type deed struct {
	tasks   *task.Manager
	agent   identity.ID
	profile *task.Profile
	op      *Op
}

// do carries out the operation.
func (d *deed) do(ctx context.Context) (result, error) {
	switch o := d.op; o.Kind {
	case OpSubmit:
		return d.submit(ctx)
	case OpClaim:
		return d.claim(ctx)
	case OpHeartbeat:
		c, err := d.tasks.Heartbeat(ctx, o.Claim)
		return result{remaining: d.tasks.Remaining(c)}, err
	case OpReport:
		t, err := d.tasks.End(ctx, o.Ending())
		return d.orDone(ctx, t, err, task.ErrTerminal, func(t *task.Task) bool {
			return d.endedIt(t, task.Completed) && bytes.Equal(t.Result, o.Result) && t.ResultType == o.ResultType
		})
	case OpFail:
		return d.fail(ctx)
	case OpRelease:
		t, err := d.tasks.Release(ctx, o.Claim)
		return d.orDone(ctx, t, err, task.ErrClaimLost, d.gaveUp)
	case OpRequeue:
		t, err := d.tasks.Requeue(ctx, o.TaskID, d.agent)
		return d.orDone(ctx, t, err, task.ErrNotDead, func(t *task.Task) bool {
			return !t.Status.Terminal() && t.Submitter == d.agent
		})
	default:
		t, err := d.tasks.Cancel(ctx, o.TaskID, d.agent)
		return d.orDone(ctx, t, err, task.ErrTerminal, func(t *task.Task) bool {
			return t.Status == task.Cancelled && t.Submitter == d.agent
		})
	}
}

// fail ends an attempt. That it was one shows in the task's end, or in a task that waits for the next.
func (d *deed) fail(ctx context.Context) (result, error) {
	o := d.op
	refusal := task.ErrTerminal
	t, err := d.tasks.End(ctx, o.Ending())
	if errors.Is(err, task.ErrClaimLost) {
		refusal = task.ErrClaimLost
	}
	return d.orDone(ctx, t, err, refusal, func(t *task.Task) bool {
		again := d.gaveUp(t) && t.Attempts > 0 && !o.Permanent
		return (again || d.endedIt(t, task.Failed)) && t.Error == o.Reason
	})
}

// gaveUp reports whether the task is pending since this very claim has ended.
func (d *deed) gaveUp(t *task.Task) bool {
	epoch := d.op.Claim.Epoch
	return t.Status == task.Pending && t.Epoch == epoch && epoch != 0
}

// orDone takes a refusal back if the task is as the operation would have left it. What the agent gets to
// see of the task is without params and result, which it has.
func (d *deed) orDone(ctx context.Context, t task.Task, err, refusal error, done func(*task.Task) bool) (result, error) {
	if errors.Is(err, refusal) {
		if now, getErr := d.tasks.Get(ctx, d.op.id()); getErr == nil && done(&now) {
			t, err = now, nil
		}
	}
	if err != nil {
		return result{}, err
	}
	t.Params, t.Result, t.Proof, t.ResultProof = nil, nil, nil, nil
	return result{task: &t}, nil
}

// endedIt reports whether the task has ended so under this very claim.
func (d *deed) endedIt(t *task.Task, as task.Status) bool {
	return t.Status == as && t.Claimant == d.agent && t.Epoch == d.op.Claim.Epoch
}

// submit tells of a task that has ended meanwhile how it did.
func (d *deed) submit(ctx context.Context) (result, error) {
	t, err := d.tasks.Submit(ctx, d.op.Spec)
	if errors.Is(err, task.ErrExists) {
		if now, getErr := d.tasks.Get(ctx, d.op.Spec.ID); getErr == nil && d.isSame(&now.Spec) {
			t, err = now, nil
			t.Existed = true
		}
	}
	if err != nil {
		return result{}, err
	}
	t.Params, t.Proof = nil, nil
	return result{task: &t}, nil
}

// isSame reports whether a task is what the operation submits.
func (d *deed) isSame(s *task.Spec) bool {
	want := &d.op.Spec
	params := want.Params
	if len(params) == 0 {
		params = []byte("{}")
	}
	return s.Submitter == d.agent && s.Kind == want.Kind && bytes.Equal(s.Params, params) && s.Pool == want.Pool &&
		s.Topic == want.Topic && s.Priority == want.Priority && s.Deadline.Equal(want.Deadline) &&
		s.NotBefore.Equal(want.NotBefore) && s.MaxAttempts == want.MaxAttempts && s.Backoff == want.Backoff &&
		s.IdempotencyKey == want.IdempotencyKey &&
		(want.ClaimTTL == 0 || s.ClaimTTL == want.ClaimTTL) &&
		slices.Equal(s.Capabilities, slices.Compact(slices.Sorted(slices.Values(want.Capabilities))))
}

// claim tells of a claim that the agent holds already what is left of it.
func (d *deed) claim(ctx context.Context) (result, error) {
	c, t, err := d.tasks.Claim(ctx, d.op.TaskID, *d.profile)
	if errors.Is(err, task.ErrNotPending) {
		now, getErr := d.tasks.Get(ctx, d.op.TaskID)
		if getErr == nil && now.Status == task.Assigned && now.Claimant == d.agent {
			return result{task: &now, remaining: now.ClaimExpires.Sub(d.tasks.Now())}, nil
		}
	}
	return result{task: &t, remaining: d.tasks.Remaining(c)}, err
}
