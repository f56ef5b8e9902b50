package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/task"
)

// Submit submits a task; see [task.Manager.Submit]. The submitter is the client's agent. A task that is
// there already with the same content is returned as it is, unless it is somebody else's.
func (c *Client) Submit(ctx context.Context, s task.Spec) (task.Task, error) {
	r := c.one(ctx, Op{Kind: OpSubmit, Spec: s})
	return r.Task, r.Err
}

// Claim claims a task with the profile that the client is bound with; see [task.Manager.Claim]. p has to
// be of the same agent. A claim that the agent holds already is returned with what is left of it.
func (c *Client) Claim(ctx context.Context, id string, p task.Profile) (task.Claim, task.Task, error) {
	if b, err := c.bound(); err == nil && p.Agent != b.Profile.Agent {
		return task.Claim{}, task.Task{}, fmt.Errorf("claim task %.80q: %w: the profile is of another agent than the client", id, task.ErrInvalid)
	}
	r := c.one(ctx, Op{Kind: OpClaim, TaskID: id})
	return r.Claim, r.Task, r.Err
}

// Heartbeat renews a claim; see [task.Manager.Heartbeat].
func (c *Client) Heartbeat(ctx context.Context, claim task.Claim) (task.Claim, error) {
	r := c.one(ctx, Op{Kind: OpHeartbeat, Claim: claim})
	return r.Claim, r.Err
}

// End ends a task; see [task.Manager.End]. What it returns is without params and result.
func (c *Client) End(ctx context.Context, e task.Ending) (task.Task, error) {
	o := Op{Kind: OpFail, Claim: e.Claim, Reason: e.Reason, Permanent: e.Permanent, Proof: e.Proof}
	if e.Status == task.Completed {
		o = Op{Kind: OpReport, Claim: e.Claim, Result: e.Result, ResultType: e.ResultType, Proof: e.Proof}
	}
	r := c.one(ctx, o)
	return r.Task, r.Err
}

// Report is [Client.End] for a task that was done, at a host that wants no signature.
func (c *Client) Report(ctx context.Context, claim task.Claim, result []byte, mediaType string) (task.Task, error) {
	return c.End(ctx, task.Completion(claim, result, mediaType))
}

// Fail is [Client.End] for an attempt that failed, at a host that wants no signature.
func (c *Client) Fail(ctx context.Context, claim task.Claim, reason string) (task.Task, error) {
	return c.End(ctx, task.Failure(claim, reason))
}

// FailPermanently is [Client.Fail] for a task that nobody can do.
func (c *Client) FailPermanently(ctx context.Context, claim task.Claim, reason string) (task.Task, error) {
	e := task.Failure(claim, reason)
	e.Permanent = true
	return c.End(ctx, e)
}

// Release gives a task back; see [task.Manager.Release]. What it returns is without params.
func (c *Client) Release(ctx context.Context, claim task.Claim) (task.Task, error) {
	r := c.one(ctx, Op{Kind: OpRelease, Claim: claim})
	return r.Task, r.Err
}

// Cancel cancels a task; see [task.Manager.Cancel]. by has to be the client's agent. What it returns is
// without params.
func (c *Client) Cancel(ctx context.Context, id string, by identity.ID) (task.Task, error) {
	if b, err := c.bound(); err == nil && by != b.Profile.Agent {
		return task.Task{}, fmt.Errorf("cancel task %.80q: %w", id, task.ErrNotSubmitter)
	}
	r := c.one(ctx, Op{Kind: OpCancel, TaskID: id})
	return r.Task, r.Err
}

// Requeue makes a dead letter pending again; see [task.Manager.Requeue]. by has to be the client's agent.
// What it returns is without params. The end of the task is told to those who are attached.
func (c *Client) Requeue(ctx context.Context, id string, by identity.ID) (task.Task, error) {
	if b, err := c.bound(); err == nil && by != b.Profile.Agent {
		return task.Task{}, fmt.Errorf("requeue task %.80q: %w", id, task.ErrNotSubmitter)
	}
	r := c.one(ctx, Op{Kind: OpRequeue, TaskID: id})
	return r.Task, r.Err
}

func (c *Client) one(ctx context.Context, o Op) Result { return c.Do(ctx, []Op{o})[0] }

// Do carries out operations in order, in as few requests as they fit in, and returns the result of each:
// one that fails does not keep the others from being carried out. Whoever the claims in them name, they
// are those of the client's agent.
func (c *Client) Do(ctx context.Context, ops []Op) []Result {
	d := doing{c: c, ops: make([]Op, len(ops)), results: make([]Result, len(ops))}
	copy(d.ops, ops)
	var todo []int
	for i := range d.ops {
		if err := d.prepare(i); err != nil {
			d.fail(i, err)
		} else {
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		batch := d.batch(todo)
		rest, err := d.request(ctx, batch)
		failed := batch
		if err != nil && !errors.Is(err, task.ErrInvalid) { // it is not about this request
			failed = todo
		}
		if err != nil {
			for _, i := range failed {
				d.end(i, result{}, answer{}, err)
			}
			batch = failed
		}
		todo = append(rest, todo[len(batch):]...)
	}
	return d.results
}

// doing is a list of operations on their way.
type doing struct {
	c       *Client
	ops     []Op
	results []Result
}

// prepare checks an operation, and notes what the client has to know before the host does.
func (d *doing) prepare(i int) error {
	o := &d.ops[i]
	if o.Kind == OpSubmit && o.Spec.ID == "" {
		id, err := d.c.newID(o.Spec)
		if err != nil {
			return err
		}
		o.Spec.ID = id
	}
	o.Reason = cut.Marked(o.Reason, task.MaxReason)
	if err := o.check(); err != nil {
		return err
	}
	switch o.Kind {
	case OpSubmit, OpRequeue:
		return d.c.expect(o.id())
	case OpClaim:
		d.c.take(o.TaskID)
	case OpReport, OpFail, OpRelease:
		d.c.leave(o.id())
	}
	return nil
}

// batch returns the first of those to do that one request has room for.
func (d *doing) batch(todo []int) []int {
	size := 0
	for n, i := range todo {
		o := &d.ops[i]
		size += len(o.Spec.Params) + len(o.Result) + len(o.Reason) + len(o.Proof) + len(o.Spec.Proof) + 512
		if n == MaxOps || n > 0 && size > d.c.soft {
			return todo[:n]
		}
	}
	return todo
}

// request asks for a batch, and returns those that the answer had no room for.
func (d *doing) request(ctx context.Context, batch []int) (rest []int, err error) {
	q := &request{}
	for _, i := range batch {
		q.ops = append(q.ops, d.ops[i])
		if d.ops[i].Kind == OpClaim {
			b, err := d.c.bound()
			if err != nil {
				return nil, err
			}
			q.profile = b.Profile
		}
	}
	a, err := d.c.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(a.results) != len(batch) || a.results[0].code == codeLater {
		return nil, fmt.Errorf("%w: %d results for %d operations", ErrProtocol, len(a.results), len(batch))
	}
	for n, i := range batch {
		if r := a.results[n]; r.code == codeLater {
			rest = append(rest, i)
		} else {
			d.end(i, r, a, r.err())
		}
	}
	return rest, nil
}

// end takes in what came of an operation.
func (d *doing) end(i int, r result, a answer, err error) {
	o := &d.ops[i]
	d.c.settle(o, r.task, err)
	if err == nil && (o.Kind != OpHeartbeat && r.task == nil || o.Kind == OpClaim && r.remaining == 0) {
		err = fmt.Errorf("%w: a result without task or claim", ErrProtocol)
	}
	if err != nil {
		d.fail(i, err)
		return
	}
	result := &d.results[i]
	if r.task != nil {
		result.Task = *r.task
	}
	switch o.Kind {
	case OpSubmit:
		result.Task.Params, result.Task.Proof = o.Spec.Params, o.Spec.Proof
	case OpClaim, OpHeartbeat:
		result.Claim = o.Claim
		result.Claim.Expires = a.asked.Add(r.remaining)
	}
	if o.Kind == OpClaim {
		result.Claim.TaskID, result.Claim.Agent, result.Claim.Epoch = o.TaskID, r.task.Claimant, r.task.Epoch
		result.Claim.Submission = r.task.Spec.Digest() // of what it was shown, whatever the host has
		result.Task.ClaimExpires = utc(result.Claim.Expires)
	}
}

// utc strips the zone and the monotonic reading, as package task does.
func utc(t time.Time) time.Time { return t.Round(0).UTC() }

func (d *doing) fail(i int, err error) {
	o := &d.ops[i]
	d.results[i].Err = fmt.Errorf("%s task %.80q: %w", o.Kind, o.id(), err)
}
