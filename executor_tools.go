package converge

import (
	"context"
	"fmt"
	"time"

	"github.com/converge-agents/converge/task"
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
	e.calls.Go(func() { e.call(d, held) })
	return nil
}

// call runs a tool to its end and hands over the result. The guard bounds how long that takes.
func (e *StandardExecutor) call(d InvokeTool, held *heldClaim) {
	ctx, cancel := context.WithCancelCause(e.callsCtx)
	defer cancel(nil)
	stop := e.keepClaim(ctx, cancel, held)
	start := time.Now()
	output, err := e.guard.Run(ctx, d.Tool, d.Params)
	duration := time.Since(start)
	stop()
	e.toolTimes.Observe(duration)

	e.mu.Lock()
	e.running--
	if held != nil {
		held.calls--
	}
	e.results = append(e.results, ToolResult{
		CallID: d.CallID, Tool: d.Tool, TaskID: d.TaskID, Output: output, Err: err, Duration: duration,
	})
	e.mu.Unlock()
	e.env.Notify()
}

// keepClaim renews a claim until stop is called, and ends the call if the claim is lost. While it has
// nothing to do it costs a timer.
func (e *StandardExecutor) keepClaim(ctx context.Context, lost context.CancelCauseFunc, held *heldClaim) (stop func()) {
	if held == nil {
		return func() {}
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			claim := e.current(held)
			pause := time.NewTimer(max(time.Until(claim.Expires)/3, time.Millisecond))
			select {
			case <-done:
				pause.Stop()
				return
			case <-pause.C:
			}
			renewed, err := e.env.Tasks.Heartbeat(ctx, claim)
			switch {
			case err == nil:
				e.renew(held, renewed)
			case task.IsLost(err):
				lost(fmt.Errorf("task %q is no longer held: %w", claim.TaskID, err))
				return
			default:
				e.env.Logger.WarnContext(ctx, "cannot renew claim", "agent", e.env.Name, "task", claim.TaskID, "error", err)
			}
		}
	}()
	return func() { close(done); <-ended }
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
