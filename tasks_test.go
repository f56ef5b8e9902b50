package converge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/tool"
)

func TestManagerThatWasNotMadeIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, none := range []converge.Tasks{nil, (*task.Manager)(nil), (*remote.Client)(nil)} {
			s := &script{decide: once(converge.ClaimTask{TaskID: "a"})}
			c := w.config(s)
			c.Tasks, c.Executor = none, &converge.ExecutorConfig{}
			a := w.run(c)
			time.Sleep(time.Second)
			if err := a.end(); err != nil {
				t.Errorf("%T: %v", none, err)
			}
			if failures := s.failures(); len(failures) != 1 || !errors.Is(failures[0], converge.ErrNotConfigured) {
				t.Errorf("%T: failures %v", none, failures)
			}
		}
	})
}

func TestClientIsForOneAgent(t *testing.T) {
	w := newWorld(t)
	client := must(remote.New(remote.Config{Host: w.peer().id.ID()}))
	first, second := w.config(&script{}), w.config(&script{})
	first.Tasks, second.Tasks = client, client
	if _, err := converge.New(first); err != nil {
		t.Fatal(err)
	}
	if _, err := converge.New(second); err == nil || !strings.Contains(err.Error(), "bound") {
		t.Errorf("a second agent: %v", err)
	}
}

// wakeful is an agent that the test wakes.
type wakeful struct {
	script
	wake func()
}

func (a *wakeful) SetWake(wake func()) { a.wake = wake }

func TestWakerGetsATurnWheneverItWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := &wakeful{}
		var more atomic.Bool
		a.decide = func(converge.Turn) []converge.Decision {
			if more.Swap(false) {
				for range 10 {
					a.wake() // amid a turn, they count as one
				}
			}
			return nil
		}
		w.run(w.config(a))
		time.Sleep(time.Second)
		for i := range 3 {
			more.Store(true)
			a.wake()
			time.Sleep(time.Second)
			if got := len(a.seen()); got != 2*i+3 {
				t.Errorf("%d turns after waking it %d times, and amid a turn each time", got, i+1)
			}
		}
	})
}

// countingTasks counts what is asked for at once.
type countingTasks struct {
	*task.Manager
	batches [][]remote.Op
}

func (c *countingTasks) Do(_ context.Context, ops []remote.Op) []remote.Result {
	c.batches = append(c.batches, ops)
	results := make([]remote.Result, len(ops))
	for i, o := range ops {
		results[i].Task.ID = o.Spec.ID
		if o.Spec.Kind == "bad" {
			results[i].Err = task.ErrInvalid
		}
	}
	return results
}

func TestDecisionsOfOneKindAreCarriedOutTogether(t *testing.T) {
	w := newWorld(t)
	tasks := &countingTasks{Manager: w.tasks}
	id := w.peer().id.ID()
	e := must(converge.NewStandardExecutor(converge.ExecutorConfig{}, converge.ExecutorEnv{
		Agent: id, Tasks: tasks, Send: func(context.Context, message.Draft) error { return nil },
	}))
	defer e.Close(t.Context())
	errs := e.ExecuteTasks(t.Context(), []converge.Decision{
		converge.SubmitTask{Spec: task.Spec{ID: "a"}}, converge.SubmitTask{Spec: task.Spec{ID: "a"}},
		converge.SubmitTask{Spec: task.Spec{ID: "b", Kind: "bad"}}, converge.SubmitTask{Spec: task.Spec{ID: "c"}},
	})
	if len(tasks.batches) != 1 || len(tasks.batches[0]) != 3 || tasks.batches[0][0].Spec.Submitter != id {
		t.Fatalf("asked for %+v", tasks.batches)
	}
	if errs[0] != nil || !errors.Is(errs[1], task.ErrExists) || !errors.Is(errs[2], task.ErrInvalid) || errs[3] != nil {
		t.Errorf("errors %v", errs)
	}
	if err := e.Execute(t.Context(), converge.SubmitTask{Spec: task.Spec{ID: "b"}}); err != nil {
		t.Errorf("what was refused can be submitted again: %v", err)
	}
	reports := e.ExecuteTasks(t.Context(), []converge.Decision{converge.ReportTask{TaskID: "x"}, &converge.ReportTask{}, impostor{}})
	if !errors.Is(reports[0], converge.ErrNotHeld) || reports[1] == nil || reports[2] == nil || len(tasks.batches) != 2 {
		t.Errorf("errors %v, %d batches", reports, len(tasks.batches))
	}
}

// TestRuntimesAgentSignsAndNobodyElse: what several decisions want signed shares a signature, whatever they say of
// submitter and proof; one that cannot be signed keeps the others from nothing.
func TestRuntimesAgentSignsAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	me, other := w.peer().id, w.peer().id
	verifier := must(task.NewVerifier(w.registry, "test"))
	env := converge.ExecutorEnv{
		Agent: me.ID(), Tasks: w.tasks, Send: func(context.Context, message.Draft) error { return nil },
		Signer: must(task.NewSigner(other, "test")), Route: task.Profile{Agent: me.ID()},
	}
	if _, err := converge.NewStandardExecutor(converge.ExecutorConfig{}, env); err == nil || !strings.Contains(err.Error(), "Signer") {
		t.Errorf("another agent's signer: %v", err)
	}
	env.Signer = must(task.NewSigner(me, "test"))
	e := must(converge.NewStandardExecutor(converge.ExecutorConfig{}, env))
	defer e.Close(t.Context())
	errs := e.ExecuteTasks(t.Context(), []converge.Decision{
		converge.SubmitTask{Spec: task.Spec{ID: "a", Kind: "k", Submitter: other.ID(), Proof: []byte("?")}},
		converge.SubmitTask{Spec: task.Spec{ID: "b", Kind: "no kind"}},
		converge.SubmitTask{Spec: task.Spec{ID: "c", Kind: "k"}},
	})
	if errs[0] != nil || !errors.Is(errs[1], task.ErrInvalid) || errs[2] != nil || env.Signer.Signed() != 2 {
		t.Errorf("errors %v, %d signed", errs, env.Signer.Signed())
	}
	for _, id := range []string{"a", "c"} {
		got := must(w.tasks.Get(t.Context(), id))
		if got.Submitter != me.ID() || verifier.VerifySpec(&got.Spec) != nil {
			t.Errorf("%s is %+v", id, got)
		}
		if err := e.Execute(t.Context(), converge.ClaimTask{TaskID: id}); err != nil {
			t.Fatal(err)
		}
	}
	errs = e.ExecuteTasks(t.Context(), []converge.Decision{
		converge.ReportTask{TaskID: "a", Result: make([]byte, task.MaxResult+1)}, converge.ReportTask{TaskID: "c", Result: []byte("42")},
	})
	if !errors.Is(errs[0], task.ErrInvalid) || errs[1] != nil {
		t.Errorf("errors %v", errs)
	}
	if err := e.Execute(t.Context(), converge.FailTask{TaskID: "a", Reason: strings.Repeat("\xff", 9000)}); err != nil {
		t.Error(err)
	}
	for id, status := range map[string]task.Status{"a": task.Failed, "c": task.Completed} {
		if got := must(w.tasks.Get(t.Context(), id)); got.Status != status || got.Claimant != me.ID() || verifier.VerifyEnding(&got) != nil {
			t.Errorf("%s is %+v, %v", id, got, verifier.VerifyEnding(&got))
		}
	}
}

// impostor is a decision of another package under a name of this one.
type impostor struct{}

func (impostor) Kind() string { return converge.ReportTask{}.Kind() }

// unreachable is a task manager whose heartbeats find nobody.
type unreachable struct {
	*task.Manager
	heartbeats atomic.Int64
}

func (u *unreachable) Heartbeat(context.Context, task.Claim) (task.Claim, error) {
	u.heartbeats.Add(1)
	return task.Claim{}, errors.New("nobody there")
}

func TestToolIsStoppedWhenItsClaimRunsOutUnrenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		tasks := &unreachable{Manager: w.tasks}
		s := spec("a") // with ten seconds to live
		w.submit(w.peer(), s)
		slow := worker("hang")
		c := w.worker(slow, b)
		c.Tasks, c.Executor.ToolTimeout = tasks, time.Hour
		w.run(c)
		time.Sleep(9 * time.Second)
		if n := len(slow.results()); n != 0 {
			t.Errorf("%d results while the claim lasts", n)
		}
		time.Sleep(2 * time.Second)
		// The agent may have claimed the task again meanwhile: what counts is how the first call ended.
		if results := slow.results(); len(results) == 0 || !errors.Is(results[0].Err, tool.ErrCancelled) {
			t.Errorf("results %+v, want the first to be one that was cancelled", results)
		}
		if n := tasks.heartbeats.Load(); n > 30 {
			t.Errorf("%d heartbeats in ten seconds", n)
		}
	})
}

func TestCancellationStopsTheToolAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newToolbox(t)
		peer := w.peer()
		boss := peer.id.ID()
		s := spec("a")
		s.ClaimTTL = time.Hour
		w.submit(peer, s)
		slow := worker("hang")
		c := w.worker(slow, b)
		c.Executor.ToolTimeout = 2 * time.Hour
		w.run(c)
		time.Sleep(time.Minute)
		must(w.tasks.Cancel(t.Context(), "a", boss))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if results := slow.results(); len(results) != 1 || !errors.Is(results[0].Err, tool.ErrCancelled) || results[0].Duration != time.Minute {
			t.Errorf("results %+v, want one that was cancelled after a minute", results)
		}
	})
}

// answer has a peer be the host of the tasks until the end of the test, which takes its time for each answer.
func (w *world) answer(host peer, after time.Duration) {
	desk := must(remote.NewHost(remote.HostConfig{Tasks: w.tasks, Allow: remote.AllowAll, Logger: quiet}))
	go func() {
		for {
			m, err := host.Receive(w.t.Context())
			if err != nil {
				return
			}
			time.Sleep(after)
			if d, ok := desk.Answer(w.t.Context(), m); ok {
				host.Send(w.t.Context(), d)
			}
		}
	}()
}

// TestRequestsWaitForTheEgressLimit has an agent submit more than it may send.
func TestRequestsWaitForTheEgressLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host := w.peer()
		w.answer(host, 0)
		var submit []converge.Decision
		for i := range 20 {
			submit = append(submit, converge.SubmitTask{Spec: task.Spec{ID: fmt.Sprint(i), Kind: "k"}}, converge.Wake{After: time.Minute})
		}
		boss := &script{decide: once(submit...)}
		c := w.config(boss)
		c.Tasks = must(remote.New(remote.Config{Host: host.id.ID()}))
		c.Executor = &converge.ExecutorConfig{Limiter: must(ratelimit.New(ratelimit.Config{
			Global: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 2, Burst: 4}, Topic: ratelimit.Unlimited,
		}))}
		a := w.run(c)
		time.Sleep(5 * time.Second)
		if s := a.Stats(); s.Signed < 12 || s.Signed > 14 {
			t.Errorf("%d messages in 5 seconds", s.Signed)
		}
		time.Sleep(10 * time.Second)
		if failures := boss.failures(); len(failures) != 0 {
			t.Errorf("failures %v", failures)
		}
		if got := w.tasks.Visible(task.Profile{}, 100); len(got) != 20 {
			t.Errorf("%d tasks were submitted", len(got))
		}
	})
}

// TestLateAnswersAreNotShown has a host that answers when nobody waits any more.
func TestLateAnswersAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host := w.peer()
		bob := &script{}
		c := w.config(bob)
		c.Tasks = must(remote.New(remote.Config{Host: host.id.ID()}))
		c.Capabilities = []discovery.Capability{{Name: "work"}}
		r := w.run(c)
		m := must(host.Receive(t.Context()))
		time.Sleep(time.Minute)
		for _, contentType := range []string{remote.ReplyType, "text/plain"} {
			_, err := host.Send(t.Context(), message.Draft{To: r.ID(), InReplyTo: m.ID(), ContentType: contentType, Body: []byte(contentType)})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		expectBodies(t, bob, "text/plain")
		go func() {
			for {
				if _, err := host.Receive(t.Context()); err != nil {
					return
				}
			}
		}()
	})
}

// TestAnswersReachTheTurnUnderWay has an agent stopped while it waits for the answer to what it has decided.
func TestAnswersReachTheTurnUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host := w.peer()
		w.answer(host, time.Second)
		c := w.config(&script{decide: once(converge.SubmitTask{Spec: task.Spec{ID: "a", Kind: "k"}})})
		c.Tasks, c.Executor = must(remote.New(remote.Config{Host: host.id.ID()})), &converge.ExecutorConfig{}
		a := w.run(c)
		time.Sleep(time.Second / 2)
		stopped := time.Now()
		if err := a.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(stopped); took > 2*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		if s := a.Stats(); s.Decisions["submit_task"] != (converge.DecisionStats{Done: 1}) {
			t.Errorf("decisions %+v", s.Decisions)
		}
		time.Sleep(2 * time.Second) // for the host
	})
}

// TestAgentThatStopsClaimsNothing has an agent stopped in the turn in which it claims a task.
func TestAgentThatStopsClaimsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.submit(w.peer(), spec("a"))
		var a *agent
		late := &script{}
		late.decide = func(turn converge.Turn) (all []converge.Decision) {
			if len(turn.Claimed) > 0 {
				t.Error("it got a task")
			}
			for _, shown := range turn.Tasks {
				a.stop()
				all = append(all, converge.ClaimTask{TaskID: shown.ID}, converge.Wake{After: time.Hour})
			}
			return all
		}
		c := w.config(late)
		c.Tasks, c.Executor = w.tasks, &converge.ExecutorConfig{}
		c.Capabilities = []discovery.Capability{{Name: "work"}}
		r := must(converge.New(c))
		ctx, stop := context.WithCancel(t.Context())
		a = &agent{r, t, stop, make(chan error, 1)}
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if now := must(w.tasks.Get(t.Context(), "a")); now.Status != task.Pending || now.Epoch != 0 {
			t.Errorf("the task is %s, after %d claims", now.Status, now.Epoch)
		}
		if s := r.Stats().Decisions["claim_task"]; s != (converge.DecisionStats{Failed: 1}) {
			t.Errorf("claims %+v", s)
		}
	})
}

// TestFailedAttemptsAreRepeatedUntilOneIsPermanent has a worker fail twice, and then for good.
func TestFailedAttemptsAreRepeatedUntilOneIsPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		boss := &script{decide: once(converge.SubmitTask{Spec: task.Spec{ID: "a", Kind: "k", MaxAttempts: 9}})}
		c := w.config(boss)
		c.Tasks, c.Executor = w.tasks, &converge.ExecutorConfig{}
		w.run(c)
		tries := 0
		failing := &script{decide: func(turn converge.Turn) (d []converge.Decision) {
			for _, t := range turn.Tasks {
				d = append(d, converge.ClaimTask{TaskID: t.ID})
			}
			for _, t := range turn.Claimed {
				tries++
				d = append(d, converge.FailTask{TaskID: t.ID, Reason: "no", Permanent: tries == 3})
			}
			return d
		}}
		c = w.config(failing)
		c.Tasks, c.Executor = w.tasks, &converge.ExecutorConfig{}
		w.run(c)
		time.Sleep(time.Minute)
		var ended []task.Task
		for _, turn := range boss.seen() {
			ended = append(ended, turn.Ended...)
		}
		if tries != 3 || len(ended) != 1 || ended[0].Attempts != 3 || ended[0].DeadLetter || ended[0].Status != task.Failed {
			t.Errorf("after %d attempts the submitter saw %+v", tries, ended)
		}
	})
}

// TestSubmittingAgainWithAKeyIsNoError has an agent submit one thing twice, and then another under its key.
// It sees one end.
func TestSubmittingAgainWithAKeyIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		submit := converge.SubmitTask{Spec: task.Spec{Kind: "k", IdempotencyKey: "key"}}
		other := submit
		other.Spec.Kind = "other"
		turns := 0
		boss := &script{decide: func(converge.Turn) (d []converge.Decision) {
			turns++
			switch turns {
			case 1:
				return []converge.Decision{submit, submit, converge.Wake{After: time.Minute}}
			case 2:
				return []converge.Decision{other} // which is refused, and takes nothing away
			}
			return nil
		}}
		c := w.config(boss)
		c.Tasks, c.Executor = w.tasks, &converge.ExecutorConfig{}
		a := w.run(c)
		time.Sleep(2 * time.Minute)
		id := task.IDForKey(a.ID(), "key")
		if failures := boss.failures(); len(failures) != 1 || !errors.Is(failures[0], task.ErrExists) {
			t.Errorf("failures %v", failures)
		}
		must(w.tasks.Cancel(t.Context(), id, a.ID()))
		time.Sleep(time.Second)
		var ended []task.Task
		for _, turn := range boss.seen() {
			ended = append(ended, turn.Ended...)
		}
		if len(ended) != 1 || ended[0].ID != id || ended[0].Status != task.Cancelled {
			t.Errorf("saw the end of %+v", ended)
		}
		if n := w.tasks.Stats().Submitted; n != 1 {
			t.Errorf("%d tasks were submitted", n)
		}
	})
}
