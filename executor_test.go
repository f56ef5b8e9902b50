package converge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// goroutines returns how many goroutines the test's bubble has. The process has others, which come and go: those of the
// runtime that run finalizers and cleanups count too.
func goroutines(t *testing.T) (n int, stacks string) {
	t.Helper()
	all := make([]byte, 4<<20)
	stacks = string(all[:runtime.Stack(all, true)])
	head, _, _ := strings.Cut(stacks, "\n")
	_, bubble, ok := strings.Cut(head, "synctest bubble ")
	if !ok {
		t.Fatalf("not in a bubble: %s", head)
	}
	return strings.Count(stacks, "synctest bubble "+bubble), stacks
}

// toolbox has tools that work, hang, and hang whatever their context says.
type toolbox struct {
	*tool.Registry
	runs    atomic.Int64
	release chan struct{} // lets the deaf tool go
}

func newToolbox(t *testing.T) *toolbox {
	b := &toolbox{Registry: tool.NewRegistry(), release: make(chan struct{})}
	for name, run := range map[string]func(context.Context) error{
		"echo": func(context.Context) error { return nil },
		"hang": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"deaf": func(context.Context) error { <-b.release; return nil },
	} {
		err := b.Register(tool.Func(name, func(ctx context.Context, params json.RawMessage) (tool.Output, error) {
			b.runs.Add(1)
			return tool.Output{Data: params, ContentType: "application/json"}, run(ctx)
		}), tool.Options{MaxConcurrent: 2000})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *toolbox) allow(names ...string) *converge.ExecutorConfig {
	return &converge.ExecutorConfig{Tools: b.Registry, ToolAllowlist: names, MaxCalls: 4000}
}

func TestToolNotOnTheAllowlistDoesNotRun(t *testing.T) {
	for name, allowlist := range map[string][]string{"empty": nil, "another tool": {"hang"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := newToolbox(t)
				alice := w.peer()
				eve := &script{decide: once(
					converge.InvokeTool{Tool: "echo", CallID: "forbidden"},
					converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte("later decisions run")}})}
				var log bytes.Buffer
				c := w.config(eve)
				c.Name, c.Executor = "eve", b.allow(allowlist...)
				c.Logger = slog.New(slog.NewTextHandler(&log, nil))
				r := w.run(c)
				if got := alice.hear(); got != "later decisions run" {
					t.Errorf("alice received %q", got)
				}
				synctest.Wait()
				r.end()
				results := eve.results()
				if len(results) != 1 || !errors.Is(results[0].Err, tool.ErrDenied) || results[0].CallID != "forbidden" {
					t.Errorf("results: %+v, want one that was denied", results)
				}
				if b.runs.Load() != 0 {
					t.Error("a tool ran that is not on the allowlist")
				}
				if s := r.Stats().Tools; s.Denied != 1 || s.Run != 0 {
					t.Errorf("stats %+v, want one denied call and none that ran", s)
				}
				if line := log.String(); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "agent=eve") || !strings.Contains(line, "tool=echo") {
					t.Errorf("the log says %q, want a warning that names agent and tool", line)
				}
			})
		})
	}
}

func TestHungToolsDelayNeitherMessagesNorDecisionsNorOtherTools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		const hung = 1000
		var start []converge.Decision
		for i := range hung {
			start = append(start, converge.InvokeTool{Tool: []string{"hang", "deaf"}[i%2], CallID: "hung"})
		}
		bob := &script{}
		first := once(start...)
		bob.decide = func(turn converge.Turn) []converge.Decision {
			d := first(turn)
			for _, m := range turn.Messages {
				d = append(d, converge.InvokeTool{Tool: "echo", CallID: m.Sender().String()})
			}
			for _, r := range turn.Results {
				if r.Tool == "echo" {
					d = append(d, converge.SendMessage{Draft: message.Draft{To: must(parseID(r.CallID)), Body: r.Output.Data}})
				}
			}
			return d
		}
		before, _ := goroutines(t)
		c := w.config(bob)
		c.Executor = b.allow("echo", "hang", "deaf")
		c.Executor.ToolTimeout = time.Minute
		r := w.run(c)
		alice := w.peer()
		synctest.Wait()
		asked := time.Now()
		for range 50 {
			alice.say(r.ID(), "use a tool")
			if got := alice.hear(); got != "{}" {
				t.Fatalf("answer %q", got)
			}
		}
		if waited := time.Since(asked); waited != 0 {
			t.Errorf("50 tool calls beside %d hung ones took %v, want none of it waiting", hung, waited)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		timedOut := 0
		for _, result := range bob.results() {
			if result.CallID == "hung" && errors.Is(result.Err, tool.ErrTimeout) && result.Duration == time.Minute {
				timedOut++
			}
		}
		if timedOut != hung || r.Stats().Tools.TimedOut != hung {
			t.Errorf("%d of %d hung calls were reported as timed out, %d counted", timedOut, hung, r.Stats().Tools.TimedOut)
		}
		close(b.release)
		if err := r.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		synctest.Wait()
		if after, stacks := goroutines(t); after > before+1 {
			t.Errorf("%d goroutines at the start, %d afterwards:\n%s", before, after, stacks)
		}
	})
}

func TestToolCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		bob := &script{decide: once(slices.Repeat([]converge.Decision{converge.InvokeTool{Tool: "hang"}}, 5)...)}
		c := w.config(bob)
		c.Executor = b.allow("hang")
		c.Executor.MaxCalls = 3
		w.run(c)
		time.Sleep(time.Second)
		failures := bob.failures()
		if len(failures) != 2 || !errors.Is(errors.Join(failures...), converge.ErrTooMany) {
			t.Errorf("failures: %v, want 2 of ErrTooMany", failures)
		}
	})
}

func TestStoppingCancelsToolsAfterTheDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		bob := &script{decide: once(converge.InvokeTool{Tool: "hang"})}
		c := w.config(bob)
		c.Executor = b.allow("hang")
		c.Executor.ToolTimeout = time.Hour
		r := w.run(c)
		synctest.Wait()
		start := time.Now()
		if err := r.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took != converge.DefaultDrainTimeout {
			t.Errorf("stopping beside a hung tool took %v, want the drain timeout, %v", took, converge.DefaultDrainTimeout)
		}
	})
}

func TestEgressLimitRefusesCountsAndTellsTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.peer()
		send := converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte("x")}}
		bob := &script{decide: once(slices.Repeat([]converge.Decision{send}, 5)...)}
		c := w.config(bob)
		c.Executor = &converge.ExecutorConfig{Limiter: must(ratelimit.New(ratelimit.Config{
			Global: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 0.5, Burst: 2}, Topic: ratelimit.Unlimited,
		}))}
		r := w.run(c)
		time.Sleep(time.Second)
		failures := bob.failures()
		if len(failures) != 3 {
			t.Fatalf("%d failures, want 3", len(failures))
		}
		for _, err := range failures {
			limit, ok := errors.AsType[*ratelimit.LimitError](err)
			if !ok || limit.Scope != ratelimit.ScopeSender || limit.RetryAfter != 2*time.Second {
				t.Errorf("failure %v, want the sender's limit and a retry after 2 s", err)
			}
		}
		if s := r.Stats(); s.Signed != 2 || s.Egress["sender"] != 3 || s.Egress["global"] != 0 {
			t.Errorf("%d signed, egress %v, want 2 and 3 by the sender's limit", s.Signed, s.Egress)
		}
	})
}

func TestIngressHookCountsInStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{}
		c := w.config(bob)
		c.Hooks = append(c.Hooks, ratelimit.NewHook(must(ratelimit.New(ratelimit.Config{
			Global: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 1, Burst: 3}, Topic: ratelimit.Unlimited,
		}))))
		r := w.run(c)
		alice := w.peer()
		synctest.Wait()
		for range 10 {
			alice.say(r.ID(), "x")
		}
		synctest.Wait()
		if n := len(bob.bodies()); n != 3 {
			t.Errorf("the agent saw %d of 10 messages, want 3", n)
		}
		if s := r.Stats(); s.Ingress["sender"] != 7 || s.Hooks.Dropped["post_receive"] != 7 {
			t.Errorf("ingress %v, hooks %v, want 7", s.Ingress, s.Hooks.Dropped)
		}
	})
}

// custom is a decision of another package.
type custom struct{ what string }

func (custom) Kind() string { return "custom_thing" }

func TestCustomHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var done []string
		bob := &script{decide: once(custom{"a"}, custom{"panic"}, custom{"b"}, unhandled{}, nil)}
		c := w.config(bob)
		c.Executor = &converge.ExecutorConfig{Handlers: map[string]converge.Handler{
			"custom_thing": func(_ context.Context, d converge.Decision) error {
				if d.(custom).what == "panic" {
					panic("bad handler")
				}
				done = append(done, d.(custom).what)
				return nil
			},
		}}
		r := w.run(c)
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Equal(done, []string{"a", "b"}) {
			t.Errorf("handled %q", done)
		}
		failures := bob.failures()
		if len(failures) != 2 || !errors.Is(failures[1], converge.ErrNotConfigured) {
			t.Errorf("failures: %v, want a panic and not configured", failures)
		}
		if d := r.Stats().Decisions["custom"]; d.Done != 2 || d.Failed != 2 {
			t.Errorf("custom decisions count %+v", d)
		}
	})
}

func TestPointerToADecisionSaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := &script{decide: once(&converge.SendMessage{}, &converge.Wake{})}
		c := w.config(bob)
		c.Executor = &converge.ExecutorConfig{}
		w.run(c)
		time.Sleep(time.Second)
		failures := bob.failures()
		if len(failures) != 2 || !strings.Contains(failures[0].Error(), "*converge.SendMessage") || !strings.Contains(failures[1].Error(), "*converge.Wake") {
			t.Errorf("failures: %v, want two that name the types", failures)
		}
	})
}

type unhandled struct{}

func (unhandled) Kind() string { return "unhandled" }

func TestDecisionsOfLaterProtocolsSayThatTheyAreNotConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		later := []converge.Decision{
			converge.JoinPool{}, converge.LeavePool{}, converge.CreatePool{}, converge.SubmitBid{}, converge.Vote{}, converge.Propose{},
			converge.AcceptProposal{}, converge.RejectProposal{}, converge.Delegate{}, converge.RevokeDelegation{},
		}
		tasks := []converge.Decision{
			converge.SubmitTask{}, converge.ClaimTask{}, converge.ReportTask{}, converge.FailTask{}, converge.CancelTask{},
		}
		all := append(later, tasks...) // no task manager either
		bob := &script{decide: once(all...)}
		c := w.config(bob)
		c.Executor = &converge.ExecutorConfig{}
		r := w.run(c)
		time.Sleep(time.Second)
		failures := bob.failures()
		if len(failures) != len(all) {
			t.Fatalf("%d failures, want %d", len(failures), len(all))
		}
		for i, err := range failures {
			kind := all[i].Kind()
			if !errors.Is(err, converge.ErrNotConfigured) || !strings.Contains(err.Error(), kind) {
				t.Errorf("%s: %v, want ErrNotConfigured and the kind", kind, err)
			}
			if r.Stats().Decisions[kind].Failed != 1 {
				t.Errorf("%s is not counted", kind)
			}
		}
	})
}

// worker is an agent that claims what it sees and runs a tool for it.
func worker(toolName string) *script {
	return &script{decide: func(t converge.Turn) (d []converge.Decision) {
		for _, pending := range t.Tasks {
			d = append(d, converge.ClaimTask{TaskID: pending.ID})
		}
		for _, claimed := range t.Claimed {
			d = append(d, converge.InvokeTool{Tool: toolName, Params: claimed.Params, TaskID: claimed.ID})
		}
		for _, r := range t.Results {
			if r.Err == nil {
				d = append(d, converge.ReportTask{TaskID: r.TaskID, Result: r.Output.Data})
			} else {
				d = append(d, converge.FailTask{TaskID: r.TaskID, Reason: r.Err.Error()})
			}
		}
		return d
	}}
}

func (w *world) worker(s *script, b *toolbox) converge.Config {
	c := w.config(s)
	c.Tasks, c.Capabilities = w.tasks, []discovery.Capability{{Name: "work"}}
	c.Executor = b.allow("echo", "hang", "deaf")
	return c
}

func spec(id string) task.Spec {
	return task.Spec{ID: id, Kind: "work", Capabilities: []string{"work"}, Params: json.RawMessage(`{"n":1}`), ClaimTTL: 10 * time.Second}
}

func TestTasksGoFromSubmitterToWorkerAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		var submit []converge.Decision
		for i := range 100 {
			s := spec(fmt.Sprintf("task-%d", i))
			s.Submitter[0] = 1 // whatever the agent says, the runtime sets it
			submit = append(submit, converge.SubmitTask{Spec: s})
		}
		boss := &script{decide: once(submit...)}
		c := w.config(boss)
		c.Tasks = w.tasks
		bossRuntime := w.run(c)
		for range 3 {
			w.run(w.worker(worker("echo"), b))
		}
		time.Sleep(time.Minute)
		ended := map[string]int{}
		for _, turn := range boss.seen() {
			for _, e := range turn.Ended {
				ended[e.ID]++
				if e.Status != task.Completed || string(e.Result) != `{"n":1}` || e.Submitter != bossRuntime.ID() {
					t.Errorf("%s ended as %v with %q, submitted by %s", e.ID, e.Status, e.Result, e.Submitter)
				}
			}
		}
		if len(ended) != 100 || b.runs.Load() != 100 {
			t.Errorf("%d of 100 tasks ended, with %d runs of the tool", len(ended), b.runs.Load())
		}
		for id, n := range ended {
			if n != 1 {
				t.Errorf("%s ended %d times", id, n)
			}
		}
	})
}

func TestTwoClaimersOneWinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		workers := []*script{worker("hang"), worker("hang")}
		for _, s := range workers {
			w.run(w.worker(s, b))
		}
		synctest.Wait()
		s := spec("contested")
		w.submit(w.peer(), s)
		time.Sleep(time.Second)
		won := 0
		for _, s := range workers {
			for _, turn := range s.seen() {
				won += len(turn.Claimed)
			}
		}
		if won != 1 || b.runs.Load() != 1 {
			t.Errorf("%d agents won the claim, the tool ran %d times", won, b.runs.Load())
		}
	})
}

func TestClaimIsKeptWhileTheToolRunsAndLostWithItsAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		s := spec("long")
		w.submit(w.peer(), s)
		first := w.worker(worker("hang"), b)
		first.Executor.ToolTimeout = time.Hour
		r := w.run(first)
		time.Sleep(10 * time.Minute)
		held := must(w.tasks.Get(t.Context(), "long"))
		if held.Status != task.Assigned || held.Claimant != r.ID() || held.Epoch != 1 {
			t.Fatalf("after ten minutes the task is %v of %s in epoch %d, want the first claim to hold", held.Status, held.Claimant.Short(), held.Epoch)
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		if left := must(w.tasks.Get(t.Context(), "long")); left.Status != task.Pending && left.Status != task.Failed {
			t.Errorf("after its agent's end the task is %v", left.Status)
		}
	})
}

func TestLostClaimStopsTheToolAndRefusesTheLateReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		peer := w.peer()
		boss := peer.id.ID()
		w.submit(peer, spec("cancelled"))
		slow := worker("hang")
		c := w.worker(slow, b)
		c.Executor.ToolTimeout = time.Hour
		w.run(c)
		time.Sleep(time.Minute)
		if _, err := w.tasks.Cancel(t.Context(), "cancelled", boss); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		results := slow.results()
		if len(results) != 1 || !errors.Is(results[0].Err, tool.ErrCancelled) {
			t.Fatalf("results: %+v, want one that was cancelled", results)
		}
		if late := slow.failures(); len(late) != 1 || !errors.Is(late[0], task.ErrClaimLost) && !errors.Is(late[0], task.ErrTerminal) {
			t.Errorf("the late report: %v, want it refused", late)
		}
		if got := must(w.tasks.Get(t.Context(), "cancelled")); got.Status != task.Cancelled {
			t.Errorf("the task is %v", got.Status)
		}
	})
}

// unheard is tasks elsewhere whose changes are not heard of in time.
type unheard struct{ converge.Tasks }

func (unheard) Attach(func(task.Task)) (detach func()) { return func() {} }

// parked is an approver that nobody ever asks.
type parked struct{ waiting, gone atomic.Int64 }

func (p *parked) Approve(ctx context.Context, _ tool.Request) error {
	p.waiting.Add(1)
	<-ctx.Done()
	p.gone.Add(1)
	return context.Cause(ctx)
}

// TestCallThatWaitsForApprovalDoesNotOutliveTheReportOfItsTask has an agent call a tool and end the task at once, so that
// somebody might still allow what nobody looks at any more.
func TestCallThatWaitsForApprovalDoesNotOutliveTheReportOfItsTask(t *testing.T) {
	for _, end := range []converge.Decision{
		converge.ReportTask{TaskID: "quick", Result: []byte("{}")}, converge.FailTask{TaskID: "quick", Reason: "no"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, b, approver := newWorld(t), newToolbox(t), &parked{}
			s := &script{decide: func(turn converge.Turn) (d []converge.Decision) {
				for _, pending := range turn.Tasks {
					d = append(d, converge.ClaimTask{TaskID: pending.ID})
				}
				for range turn.Claimed {
					return []converge.Decision{converge.InvokeTool{Tool: "echo", TaskID: "quick"}, end}
				}
				return d
			}}
			w.submit(w.peer(), spec("quick"))
			c := w.worker(s, b)
			c.Tasks, c.Executor.Approver = unheard{w.tasks}, approver
			w.run(c)
			synctest.Wait() // no time passes
			if approver.waiting.Load() != approver.gone.Load() || b.runs.Load() != 0 {
				t.Errorf("after %s, %d calls waited for approval and %d of them ended; %d tools ran", end.Kind(), approver.waiting.Load(), approver.gone.Load(), b.runs.Load())
			}
			if results := s.results(); len(results) != 1 || !errors.Is(results[0].Err, tool.ErrCancelled) {
				t.Errorf("results: %+v", results)
			}
		})
	}
}

func TestIdleClaimRunsOutAndAnotherAgentGetsTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		s := spec("hoarded")
		w.submit(w.peer(), s)
		var once sync.Once
		hoarder := &script{}
		hoarder.decide = func(turn converge.Turn) (d []converge.Decision) {
			once.Do(func() { d = []converge.Decision{converge.ClaimTask{TaskID: "hoarded"}} })
			for _, m := range turn.Messages {
				d = append(d, converge.ReportTask{TaskID: string(m.Body()), Result: []byte("late")})
			}
			return d
		}
		late := w.run(w.worker(hoarder, b))
		synctest.Wait()
		good := worker("echo")
		w.run(w.worker(good, b))
		time.Sleep(time.Minute)
		done := must(w.tasks.Get(t.Context(), "hoarded"))
		if done.Status != task.Completed || done.Epoch != 2 || done.Claimant == late.ID() {
			t.Fatalf("the task is %v in epoch %d", done.Status, done.Epoch)
		}
		w.peer().say(late.ID(), "hoarded")
		time.Sleep(time.Second)
		if failures := hoarder.failures(); len(failures) != 1 || !errors.Is(failures[0], task.ErrClaimLost) {
			t.Errorf("the late report: %v, want ErrClaimLost", failures)
		}
		if got := must(w.tasks.Get(t.Context(), "hoarded")); string(got.Result) != `{"n":1}` {
			t.Errorf("the late report changed the result to %q", got.Result)
		}
	})
}

func TestReportingWhatIsNotHeldFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := spec("somebody-elses")
		w.submit(w.peer(), s)
		eve := &script{decide: once(
			converge.ReportTask{TaskID: "somebody-elses", Result: []byte("{}")},
			converge.FailTask{TaskID: "somebody-elses"},
			converge.CancelTask{TaskID: "somebody-elses"},
			converge.ClaimTask{TaskID: "somebody-elses"})}
		c := w.config(eve)
		c.Tasks = w.tasks // but without the capability
		w.run(c)
		time.Sleep(time.Second)
		failures := eve.failures()
		want := []error{converge.ErrNotHeld, converge.ErrNotHeld, task.ErrNotSubmitter, task.ErrNotRouted}
		if len(failures) != len(want) {
			t.Fatalf("failures: %v", failures)
		}
		for i := range want {
			if !errors.Is(failures[i], want[i]) {
				t.Errorf("failure %d: %v, want %v", i, failures[i], want[i])
			}
		}
		if got := must(w.tasks.Get(t.Context(), "somebody-elses")); got.Status != task.Pending || got.Epoch != 0 {
			t.Errorf("the task is %v in epoch %d", got.Status, got.Epoch)
		}
	})
}

func TestSecretsOfDecisionsStayOutOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "hunter2"
		w := newWorld(t)
		b := newToolbox(t)
		var log syncBuffer
		alice := w.peer()
		bob := &script{decide: once(
			converge.InvokeTool{Tool: "echo", Params: json.RawMessage(`{"password":"` + secret + `"}`)},
			converge.InvokeTool{Tool: "denied", Params: json.RawMessage(`{"password":"` + secret + `"}`)},
			converge.InvokeTool{Tool: "echo", Params: json.RawMessage(`["` + secret + `"]`)},
			converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte(secret)}},
			converge.SendMessage{Draft: message.Draft{To: w.peerless(), Body: []byte(secret)}},
			converge.SubmitTask{Spec: task.Spec{Kind: "k", Params: json.RawMessage(`["` + secret + `"]`)}},
			custom{secret})}
		c := w.config(bob)
		c.Tasks, c.Executor = w.tasks, b.allow("echo")
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.Level(math.MinInt)}))
		r := w.run(c)
		time.Sleep(time.Second)
		r.end()
		if text := log.String(); strings.Contains(text, secret) || !strings.Contains(text, "decision failed") {
			t.Errorf("the log holds what agents said:\n%s", text)
		}
	})
}
