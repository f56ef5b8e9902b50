package converge_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// witness approves everything and remembers it.
type witness struct {
	mu   sync.Mutex
	seen []tool.Request
}

func (w *witness) Approve(_ context.Context, r tool.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, r)
	return nil
}

// labels returns where the params of a call came from.
func (w *witness) labels(t *testing.T, call string) []string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.seen, func(r tool.Request) bool { return r.CallID == call })
	if i < 0 {
		t.Fatalf("call %q was not seen by the approver", call)
	}
	return w.seen[i].Taint.Labels()
}

func TestToolCallCarriesAllThatTheAgentHasBeenShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		alice := w.peer()
		bob := &script{}
		started, answered := false, false
		bob.decide = func(turn converge.Turn) []converge.Decision {
			switch {
			case !started:
				started = true
				return []converge.Decision{converge.InvokeTool{Tool: "echo", CallID: "before"}}
			case len(turn.Messages) > 0:
				clean := taint.Of("config")
				return []converge.Decision{
					converge.InvokeTool{Tool: "echo", CallID: "after a message"},
					converge.InvokeTool{Tool: "echo", CallID: "tracked by the agent", Taint: &clean},
				}
			case len(bob.results()) == 3 && !answered:
				answered = true
				return []converge.Decision{converge.InvokeTool{Tool: "echo", CallID: "after results"}}
			}
			return nil
		}
		approver := &witness{}
		c := w.config(bob)
		c.Executor = b.allow("echo")
		c.Executor.Approver = approver
		r := w.run(c)
		synctest.Wait()
		alice.say(c.Identity.ID(), "please run something")
		synctest.Wait()
		r.end()

		peer := taint.Peer(alice.id.ID().String())
		for call, want := range map[string][]string{
			"before":               nil,
			"after a message":      {peer, "tool:echo"},
			"tracked by the agent": {"config"},
			"after results":        {"config", peer, "tool:echo"},
		} {
			if got := approver.labels(t, call); !slices.Equal(got, want) {
				t.Errorf("%s: taint = %v, want %v", call, got, want)
			}
		}
		for _, result := range bob.results() {
			if !result.Taint.Has("tool:echo") {
				t.Errorf("result of %q is not labelled with its tool: %v", result.CallID, result.Taint)
			}
		}
	})
}

func TestTurnSaysWhereItsContentsComeFrom(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.peer(), w.peer()
	turn := converge.Turn{
		Tasks:   []task.Task{{Spec: task.Spec{Submitter: alice.id.ID()}}},
		Ended:   []task.Task{{Claimant: bob.id.ID()}},
		Results: []converge.ToolResult{{Tool: "search", Taint: taint.Of("tool:search")}},
	}
	want := taint.Of(taint.Peer(alice.id.ID().String()), taint.Peer(bob.id.ID().String()), "tool:search")
	if got := turn.Taint(); !slices.Equal(got.Labels(), want.Labels()) {
		t.Errorf("taint = %v, want %v", got, want)
	}
	if got := (converge.Turn{}).Taint(); !got.IsEmpty() {
		t.Errorf("an empty turn is tainted: %v", got)
	}
}

// TestReasonOfAFailedAttemptTaintsWhoeverIsShownIt has an agent fail a task so that the next one reads its words.
func TestReasonOfAFailedAttemptTaintsWhoeverIsShownIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, approver := newWorld(t), newToolbox(t), &witness{}
		again := spec("again")
		again.MaxAttempts = 2
		w.submit(w.peer(), again)
		words := ""
		s := &script{decide: func(turn converge.Turn) (d []converge.Decision) {
			for _, pending := range turn.Tasks {
				d = append(d, converge.ClaimTask{TaskID: pending.ID})
			}
			for _, won := range turn.Claimed {
				if words = won.Error; words == "" {
					d = append(d, converge.FailTask{TaskID: won.ID, Reason: "run hammer now"})
					continue
				}
				from := turn.Taint()
				d = append(d, converge.InvokeTool{Tool: "echo", CallID: "told", TaskID: won.ID, Taint: &from})
			}
			return d
		}}
		c := w.worker(s, b)
		c.TickEvery, c.Executor.Approver = time.Second, approver
		r := w.run(c)
		time.Sleep(time.Minute)
		r.end()
		if words != "run hammer now" {
			t.Fatalf("the second attempt was shown %q", words)
		}
		if got := approver.labels(t, "told"); !slices.Contains(got, taint.Many) {
			t.Errorf("taint = %v, want one that has everything", got)
		}
	})
}

func TestRestoredAgentIsTaintedByWhatItMayHaveSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		approver := &witness{}
		c := w.config(nil)
		c.Checkpoints = newUnsteady(t)
		c.Executor = b.allow("echo")
		c.Executor.Approver = approver
		run := func(call string) {
			decide := once(converge.InvokeTool{Tool: "echo", CallID: call})
			c.Agent = &tallying{act: func() []converge.Decision { return decide(converge.Turn{}) }}
			c.Transport = w.network.Endpoint(c.Identity.ID())
			r := w.run(c)
			synctest.Wait()
			r.end()
		}
		run("first run")
		run("second run")
		if got := approver.labels(t, "first run"); len(got) != 0 {
			t.Errorf("taint in the first run = %v", got)
		}
		if got := approver.labels(t, "second run"); !slices.Contains(got, taint.Many) {
			t.Errorf("taint after a restart = %v, want one that has everything", got)
		}
	})
}

func TestRenewedClaimOutlivesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.peer()
		start := time.Now()
		bob := &script{}
		bob.decide = func(turn converge.Turn) []converge.Decision {
			var d []converge.Decision
			for _, t := range turn.Tasks {
				d = append(d, converge.ClaimTask{TaskID: t.ID})
			}
			if time.Since(start) < time.Minute {
				return append(d, converge.RenewClaim{TaskID: "long"}, converge.Wake{After: 3 * time.Second})
			}
			return append(d, converge.ReportTask{TaskID: "long"}, converge.RenewClaim{TaskID: "long"})
		}
		c := w.worker(bob, newToolbox(t))
		r := w.run(c)
		long := spec("long")
		long.ClaimTTL = 10 * time.Second
		w.submit(alice, long)
		time.Sleep(2 * time.Minute)
		done, err := w.tasks.Get(t.Context(), "long")
		r.end()
		if err != nil || done.Status != task.Completed || done.Epoch != 1 {
			t.Errorf("task %+v, error %v: want it completed under the first claim", done, err)
		}
		if failures := bob.failures(); !slices.ContainsFunc(failures, func(err error) bool { return errors.Is(err, converge.ErrNotHeld) }) {
			t.Errorf("failures %v: renewing a claim that is not held has to fail", failures)
		}
	})
}
