package converge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/tool"
)

// invoked records the decision to call a tool.
func (t *trail) invoked(d InvokeTool) (uint64, error) {
	if t == nil {
		return 0, nil
	}
	r := t.describe(d, 0)
	return t.try(&r)
}

// begun records that a tool call begins, and waits for the disk if it is to.
func (t *trail) begun(ctx context.Context, q *tool.Request) (uint64, error) {
	if t == nil {
		return 0, nil
	}
	r := audit.Receipt{
		Kind: audit.KindCall, Subject: q.CallID, Action: q.Tool, Outcome: "begun", Causes: some(q.Cause),
		Input: sha256.Sum256(q.Params), Taint: q.Taint.Labels(),
	}
	if q.TaskID != "" && q.TaskID != q.CallID {
		r.Reason = "for task " + q.TaskID
	}
	seq, err := t.try(&r)
	if err == nil && t.Sync {
		if err = t.Log.Sync(ctx, seq); err != nil {
			err = fmt.Errorf("%w: %w", ErrAudit, err)
		}
	}
	return seq, err
}

// returned records how a tool call has ended.
func (t *trail) returned(result *ToolResult, begun uint64) {
	if t == nil {
		return
	}
	r := audit.Receipt{
		Kind: audit.KindResult, Subject: result.CallID, Action: result.Tool, Outcome: callOutcome(result.Err), Causes: some(begun),
		Taint: result.Taint.Labels(), Duration: max(result.Duration, 0),
	}
	if result.Err == nil {
		r.Output = sha256.Sum256(result.Output.Data)
	} else {
		r.Reason = whyFailed(result.Err)
	}
	if t.Content {
		r.Content = encodeResult(result)
	}
	result.receipt = t.add(&r)
}

// whyFailed says why a call has failed, without what the tool said or the params hold.
func whyFailed(err error) string {
	if e, ok := errors.AsType[*tool.Error](err); ok {
		switch e.Reason {
		case tool.ErrFailed, tool.ErrPanicked, tool.ErrInvalidParams, tool.ErrOutputTooLarge: // the details may be the tool's
			return e.Reason.Error()
		}
	}
	return err.Error()
}

var callOutcomes = []struct {
	reason error
	name   string
}{
	{tool.ErrDenied, "denied"}, {tool.ErrUnknownTool, "unknown"}, {tool.ErrInvalidParams, "invalid"},
	{tool.ErrNotApproved, "not_approved"}, {tool.ErrBusy, "busy"}, {tool.ErrTimeout, "timeout"},
	{tool.ErrCancelled, "cancelled"}, {tool.ErrOutputTooLarge, "too_large"}, {tool.ErrPanicked, "panicked"},
}

func callOutcome(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := errors.AsType[*tool.Error](err); ok {
		for _, o := range callOutcomes {
			if e.Reason == o.reason {
				return o.name
			}
		}
	}
	return "failed"
}
