package converge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// invoke starts a tool call beside the turns.
func (e *StandardExecutor) invoke(d InvokeTool) error {
	e.mu.Lock()
	if e.running+len(e.results) >= e.maxCalls {
		e.mu.Unlock()
		return fmt.Errorf("invoke_tool %.80q: %w: %d tool calls run or wait to be seen", d.Tool, ErrTooMany, e.maxCalls)
	}
	e.running++
	held := e.held[d.TaskID]
	if held != nil {
		held.calls++
	}
	e.mu.Unlock()
	cause, err := e.env.trail.invoked(d)
	if err != nil {
		e.mu.Lock()
		e.leave(held)
		e.mu.Unlock()
		return fmt.Errorf("invoke_tool %.80q: %w", d.Tool, err)
	}
	if d.Taint == nil {
		seen := e.env.Seen()
		d.Taint = &seen
	}
	request := tool.Request{Tool: d.Tool, Params: d.Params, Taint: *d.Taint, TaskID: d.TaskID, CallID: d.CallID, Cause: cause}
	e.calls.Go(func() { e.call(request, held) })
	return nil
}

// call runs a tool to its end and hands over the result. The guard bounds how long that takes.
func (e *StandardExecutor) call(r tool.Request, held *heldClaim) {
	ctx, cancel := context.WithCancelCause(e.callsCtx)
	defer cancel(nil)
	stop := e.keepClaim(ctx, cancel, held)
	start := time.Now()
	begun, output, err := e.guarded(ctx, r)
	duration := time.Since(start)
	stop()
	e.toolTimes.Observe(duration)
	result := ToolResult{
		CallID: r.CallID, Tool: r.Tool, TaskID: r.TaskID, Taint: r.Taint.With(taint.Tool(r.Tool)),
		Output: output, Err: err, Duration: duration,
	}
	e.env.trail.returned(&result, begun)
	e.mu.Lock()
	e.leave(held)
	e.results = append(e.results, result)
	e.mu.Unlock()
	e.env.Notify()
}

// guarded runs a tool once there is a receipt that it begins, which it returns the number of.
func (e *StandardExecutor) guarded(ctx context.Context, r tool.Request) (begun uint64, output tool.Output, err error) {
	if begun, err = e.env.trail.begun(ctx, &r); err != nil {
		return begun, output, &tool.Error{Tool: r.Tool, Reason: tool.ErrNotApproved, Err: err}
	}
	output, err = e.guard.Call(ctx, r)
	return begun, output, err
}

// leave takes note that a call has ended. It wants the executor's lock.
func (e *StandardExecutor) leave(held *heldClaim) {
	e.running--
	if held != nil {
		held.calls--
	}
}

// keepClaim renews a claim until stop is called, and ends the call if the claim is lost. While it has
// nothing to do it costs a timer.
func (e *StandardExecutor) keepClaim(ctx context.Context, lost context.CancelCauseFunc, held *heldClaim) (stop func()) {
	if held == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() {
		for {
			claim := e.current(held)
			pause := time.NewTimer(max(time.Until(claim.Expires)/3, time.Millisecond))
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-held.ended:
				pause.Stop()
				lost(fmt.Errorf("task %q is no longer held: %w", claim.TaskID, held.over)) // set before ended was closed
				return
			case <-pause.C:
			}
			if err := e.heartbeat(ctx, held, claim); err != nil {
				lost(fmt.Errorf("task %q is no longer held: %w", claim.TaskID, err))
				return
			}
		}
	})
	return func() { cancel(); keeping.Wait() }
}

// minHeartbeat is how long a heartbeat may take in any case.
const minHeartbeat = 200 * time.Millisecond

// heartbeat renews a claim, and returns an error if it is lost, which it is too when it runs out while the
// tasks cannot be asked. It is tried again otherwise.
func (e *StandardExecutor) heartbeat(ctx context.Context, held *heldClaim, claim task.Claim) error {
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(claim.Expires)/2, minHeartbeat)) // with time for another
	defer cancel()
	renewed, err := e.env.Tasks.Heartbeat(ctx, claim)
	if err == nil {
		e.renew(held, renewed)
		return nil
	}
	if task.IsLost(err) || !time.Now().Before(claim.Expires) {
		return err
	}
	if errors.Is(context.Cause(ctx), context.Canceled) { // the call has ended
		return nil
	}
	e.env.Logger.WarnContext(ctx, "cannot renew claim", "agent", e.env.Name, "task", claim.TaskID, "error", err)
	return nil
}

// renewClaim carries out a RenewClaim. A claim that is lost is forgotten, and the agent told.
func (e *StandardExecutor) renewClaim(ctx context.Context, id string) error {
	e.mu.Lock()
	held := e.held[id]
	e.mu.Unlock()
	if held == nil {
		return fmt.Errorf("renew_claim: task %.80q: %w", id, ErrNotHeld)
	}
	claim := e.current(held)
	renewed, err := e.env.Tasks.Heartbeat(ctx, claim)
	if err != nil {
		e.settled(claim, err)
		return fmt.Errorf("renew_claim: %w", err)
	}
	e.renew(held, renewed)
	return nil
}

func (e *StandardExecutor) current(held *heldClaim) task.Claim {
	e.mu.Lock()
	defer e.mu.Unlock()
	return held.claim
}

func (e *StandardExecutor) renew(held *heldClaim, claim task.Claim) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held.claim = claim
}
