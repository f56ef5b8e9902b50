package converge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

func (e *StandardExecutor) executeTask(ctx context.Context, d Decision) error {
	switch d := d.(type) {
	case SubmitTask:
		return e.submit(ctx, d.Spec)
	case ClaimTask:
		return e.claim(ctx, d.TaskID)
	case CancelTask:
		_, err := e.env.Tasks.Cancel(ctx, d.TaskID, e.env.Agent)
		return err
	case ReportTask:
		if d.ContentType == "" {
			d.ContentType = message.DefaultContentType
		}
		return e.settle(d.TaskID, func(c task.Claim) error {
			_, err := e.env.Tasks.Report(ctx, c, d.Result, d.ContentType)
			return err
		})
	case FailTask:
		return e.settle(d.TaskID, func(c task.Claim) error {
			_, err := e.env.Tasks.Fail(ctx, c, d.Reason)
			return err
		})
	}
	panic("converge: not a task decision: " + d.Kind())
}

// submit enters the task as outstanding before it exists, so that its end cannot be missed.
func (e *StandardExecutor) submit(ctx context.Context, spec task.Spec) error {
	spec.Submitter = e.env.Agent
	if spec.ID == "" {
		spec.ID = task.NewID()
	}
	if err := e.expect(spec.ID); err != nil {
		return err
	}
	_, err := e.env.Tasks.Submit(ctx, spec)
	if err != nil {
		e.mu.Lock()
		delete(e.outstanding, spec.ID)
		e.mu.Unlock()
	}
	return err
}

func (e *StandardExecutor) expect(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.outstanding[id]; known {
		return fmt.Errorf("submit_task %q: %w", id, task.ErrExists)
	}
	if len(e.outstanding) >= MaxOutstandingTasks {
		return fmt.Errorf("submit_task: %w: %d tasks of this agent have not ended", ErrTooMany, MaxOutstandingTasks)
	}
	if e.outstanding == nil {
		e.outstanding = map[string]struct{}{}
	}
	e.outstanding[id] = struct{}{}
	return nil
}

// Observe takes in a change of a task: the end of one that was submitted here waits for Collect. It
// does not block.
func (e *StandardExecutor) Observe(t task.Task) {
	if !t.Status.Terminal() || t.Submitter != e.env.Agent {
		return
	}
	e.mu.Lock()
	_, ours := e.outstanding[t.ID]
	if ours {
		delete(e.outstanding, t.ID)
		e.ended = append(e.ended, t)
	}
	e.mu.Unlock()
	if ours {
		e.env.Notify()
	}
}

func (e *StandardExecutor) claim(ctx context.Context, id string) error {
	if err := e.roomForClaim(); err != nil {
		return err
	}
	claim, t, err := e.env.Tasks.Claim(ctx, id, e.env.Route)
	if err != nil {
		return err
	}
	e.mu.Lock()
	if e.held == nil {
		e.held = map[string]*heldClaim{}
	}
	e.held[id] = &heldClaim{claim: claim}
	e.claimed = append(e.claimed, t)
	e.mu.Unlock()
	e.env.Notify()
	return nil
}

// roomForClaim makes sure of room for one more claim, forgetting those that have run out.
func (e *StandardExecutor) roomForClaim() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.held) < MaxHeldClaims {
		return nil
	}
	now := time.Now()
	for id, h := range e.held {
		if h.calls == 0 && now.After(h.claim.Expires) {
			delete(e.held, id)
		}
	}
	if len(e.held) >= MaxHeldClaims {
		return fmt.Errorf("claim_task: %w: the agent holds %d tasks", ErrTooMany, MaxHeldClaims)
	}
	return nil
}

// settle ends a task that the agent holds. The claim is let go unless the store could not be asked.
func (e *StandardExecutor) settle(id string, end func(task.Claim) error) error {
	e.mu.Lock()
	held := e.held[id]
	e.mu.Unlock()
	if held == nil {
		return fmt.Errorf("task %.80q: %w", id, ErrNotHeld)
	}
	err := end(e.current(held))
	if err == nil || task.IsLost(err) {
		e.mu.Lock()
		delete(e.held, id)
		e.mu.Unlock()
	}
	return err
}

// releaseClaims gives back the tasks that the agent holds, so that others need not wait for the claims
// to run out.
func (e *StandardExecutor) releaseClaims(ctx context.Context) error {
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	var errs []error
	for _, h := range held {
		_, err := e.env.Tasks.Release(ctx, h.claim)
		if err != nil && !errors.Is(err, task.ErrClaimLost) && !errors.Is(err, task.ErrTerminal) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
