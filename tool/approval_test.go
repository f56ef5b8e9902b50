package tool_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

// approver asks a function.
type approver func(context.Context, tool.Request) error

func (a approver) Approve(ctx context.Context, r tool.Request) error { return a(ctx, r) }

var destructive = tool.Options{Annotations: tool.Annotations{Destructive: true}, Description: "wipes the disk"}

func TestDestructiveToolDoesNotRunWhereNobodyApproves(t *testing.T) {
	var ran atomic.Int64
	g := guardOf(t, func(context.Context, json.RawMessage) (tool.Output, error) {
		ran.Add(1)
		return tool.Output{}, nil
	}, destructive, tool.GuardConfig{})
	_, err := g.Run(t.Context(), "it", nil)
	wantReason(t, err, tool.ErrNotApproved)
	if !strings.Contains(err.Error(), "GuardConfig.Approver") {
		t.Errorf("error %q does not say what to do", err)
	}
	if s := g.Stats(); ran.Load() != 0 || s.Refused != 1 || s.Run != 0 {
		t.Errorf("%d calls ran; stats %+v", ran.Load(), s)
	}
}

// annotated is a tool that says of itself that it destroys.
type annotated struct{ tool.Tool }

func (annotated) Annotations() tool.Annotations { return tool.Annotations{Destructive: true} }

func TestToolsOwnAnnotationsCount(t *testing.T) {
	r := tool.NewRegistry()
	if err := r.Register(annotated{tool.Func("it", echo)}, tool.Options{}); err != nil {
		t.Fatal(err)
	}
	g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: []string{"it"}})
	_, err := g.Run(t.Context(), "it", nil)
	wantReason(t, err, tool.ErrNotApproved)
}

func TestApproverSeesTheCallAsItWillRun(t *testing.T) {
	var seen tool.Request
	g := guardOf(t, echo, destructive, tool.GuardConfig{
		Agent: "scout", AgentID: "00ff",
		Approver: approver(func(_ context.Context, r tool.Request) error { seen = r; return nil }),
	})
	given := tool.Request{
		Agent: "somebody else", AgentID: "ff00", Description: "harmless", Annotations: tool.Annotations{ReadOnly: true},
		Tool: "it", Params: json.RawMessage(`{"a":1}`), Taint: taint.Of("peer:1"), TaskID: "t", CallID: "c", Cause: 7,
	}
	output, err := g.Call(t.Context(), given)
	if err != nil || string(output.Data) != `{"a":1}` {
		t.Fatalf("output %s, error %v", output.Data, err)
	}
	if seen.Agent != "scout" || seen.AgentID != "00ff" || seen.Description != "wipes the disk" || !seen.Annotations.Destructive || seen.Annotations.ReadOnly {
		t.Errorf("the approver saw %+v: what the guard knows better was the caller's", seen)
	}
	if string(seen.Params) != `{"a":1}` || !seen.Taint.Has("peer:1") || seen.TaskID != "t" || seen.CallID != "c" || seen.Cause != 7 {
		t.Errorf("the approver saw %+v", seen)
	}
}

func TestWhatIsNotApprovedDoesNotRun(t *testing.T) {
	refusal := errors.New("not on a Sunday")
	for name, a := range map[string]approver{
		"refused":  func(context.Context, tool.Request) error { return refusal },
		"panicked": func(context.Context, tool.Request) error { panic("broken policy") },
	} {
		t.Run(name, func(t *testing.T) {
			var ran atomic.Int64
			g := guardOf(t, func(context.Context, json.RawMessage) (tool.Output, error) {
				ran.Add(1)
				return tool.Output{}, nil
			}, tool.Options{}, tool.GuardConfig{Approver: a})
			_, err := g.Run(t.Context(), "it", nil)
			wantReason(t, err, tool.ErrNotApproved)
			if name == "refused" && !errors.Is(err, refusal) {
				t.Errorf("error %v does not say why", err)
			}
			if ran.Load() != 0 || g.Stats().Refused != 1 {
				t.Errorf("it ran %d times; stats %+v", ran.Load(), g.Stats())
			}
		})
	}
}

func TestApproverIsNotAskedForWhatIsNotAllowedOrInvalid(t *testing.T) {
	g := guardOf(t, echo, tool.Options{}, tool.GuardConfig{
		Approver: approver(func(context.Context, tool.Request) error { t.Error("the approver was asked"); return nil }),
	})
	_, err := g.Run(t.Context(), "other", nil)
	wantReason(t, err, tool.ErrDenied)
	_, err = g.Run(t.Context(), "it", json.RawMessage(`[]`))
	wantReason(t, err, tool.ErrInvalidParams)
}

func TestWaitingForApprovalHoldsNoSlotAndNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decided := make(chan struct{})
		g := guardOf(t, echo, tool.Options{Timeout: time.Second, MaxConcurrent: 1}, tool.GuardConfig{
			Approver: approver(func(ctx context.Context, r tool.Request) error {
				if r.CallID == "" {
					return nil
				}
				select {
				case <-decided:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}),
		})
		results := make(chan error)
		call := func(ctx context.Context) {
			_, err := g.Call(ctx, tool.Request{Tool: "it", CallID: "asks"})
			results <- err
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		go call(ctx)
		go call(t.Context())
		time.Sleep(time.Hour) // in the bubble: far beyond the tool's timeout
		if _, err := g.Run(t.Context(), "it", nil); err != nil {
			t.Errorf("another call of the tool: %v", err)
		}
		cause := errors.New("the claim is lost")
		cancel(cause)
		err := <-results
		wantReason(t, err, tool.ErrCancelled)
		if !errors.Is(err, cause) {
			t.Errorf("error %v does not have the cause", err)
		}
		close(decided)
		if err := <-results; err != nil {
			t.Errorf("a call that was approved after an hour: %v", err)
		}
	})
}
