package converge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
)

var auditKey = must(identity.FromSeed(bytes.Repeat([]byte{9}, 32)))

// book is a log and what it holds.
type book struct {
	*audit.Log
	t *testing.T
}

func openBook(t testing.TB, dir string) *audit.Log {
	return must(audit.Open(audit.Config{Dir: dir, Key: auditKey, Network: "test", Logger: quiet}))
}

// newBook opens a log in a folder, which has to be made outside of a bubble.
func newBook(t *testing.T, dir string) *book {
	b := &book{openBook(t, dir), t}
	t.Cleanup(func() { b.Close() })
	return b
}

// read returns the receipts so far.
func (b *book) read() (all []audit.Entry) {
	b.t.Helper()
	b.Close()
	_, err := audit.Verify(audit.Check{Key: auditKey.ID(), Each: func(e *audit.Entry) error { all = append(all, *e); return nil }}, b.Dir())
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// only returns the one receipt of a kind and an action.
func only(t *testing.T, all []audit.Entry, kind audit.Kind, action string) audit.Entry {
	t.Helper()
	found := some(all, kind, action)
	if len(found) != 1 {
		t.Fatalf("%d receipts of %v %s among %+v", len(found), kind, action, all)
	}
	return found[0]
}

func some(all []audit.Entry, kind audit.Kind, action string) (found []audit.Entry) {
	for _, e := range all {
		if e.Kind == kind && e.Action == action {
			found = append(found, e)
		}
	}
	return found
}

// caused wants a receipt to name others as its causes.
func caused(t *testing.T, e audit.Entry, by ...audit.Entry) {
	t.Helper()
	var want []uint64
	for _, cause := range by {
		want = append(want, cause.Seq)
	}
	if len(e.Causes) != len(want) {
		t.Errorf("receipt %d (%v %s) has the causes %v, want %v", e.Seq, e.Kind, e.Action, e.Causes, want)
		return
	}
	for i := range want {
		if e.Causes[i] != want[i] {
			t.Errorf("receipt %d (%v %s) has the causes %v, want %v", e.Seq, e.Kind, e.Action, e.Causes, want)
		}
	}
}

func TestReceiptsLinkMessageToDecisionToCallToResult(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b, box := newWorld(t), newBook(t, dir), newToolbox(t)
		alice := w.peer()
		bob := &script{decide: func(turn converge.Turn) []converge.Decision {
			if len(turn.Messages) > 0 {
				return []converge.Decision{
					converge.InvokeTool{Tool: "echo", CallID: "call-1", Params: json.RawMessage(`{"secret":"hunter2"}`)},
					converge.InvokeTool{Tool: "hammer", CallID: "call-2"},
				}
			}
			for _, result := range turn.Results {
				if result.CallID == "call-1" {
					return []converge.Decision{converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte("hunter2 done")}}}
				}
			}
			return nil
		}}
		c := w.config(bob)
		c.Name, c.Executor = "bob", box.allow("echo")
		c.Audit.Log = b.Log
		r := w.run(c)
		synctest.Wait()
		m := alice.say(c.Identity.ID(), "please, hunter2")
		synctest.Wait()
		if body := alice.hear(); body != "hunter2 done" {
			t.Errorf("alice hears %q", body)
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}

		all := b.read()
		started, stopped := only(t, all, audit.KindStart, ""), only(t, all, audit.KindStop, "")
		if started.Subject != "bob" || started.Agent != c.Identity.ID() || stopped.Outcome != "ok" {
			t.Errorf("%+v, %+v", started, stopped)
		}
		came := only(t, all, audit.KindMessage, "direct")
		if came.Subject != m.ID().String() || came.Peer != alice.id.ID() || came.Outcome != "accepted" || came.Agent != c.Identity.ID() {
			t.Errorf("the message's receipt is %+v", came)
		}
		turns := some(all, audit.KindTurn, "")
		caused(t, turns[0], came)
		decisions := some(all, audit.KindDecision, "invoke_tool")
		caused(t, decisions[0], turns[0])
		call := only(t, all, audit.KindCall, "echo")
		caused(t, call, decisions[0])
		if call.Subject != "call-1" || call.Outcome != "begun" || call.Input == [32]byte{} || len(call.Taint) != 1 {
			t.Errorf("the call's receipt is %+v", call)
		}
		result := only(t, all, audit.KindResult, "echo")
		caused(t, result, call)
		if result.Outcome != "ok" || result.Output == [32]byte{} || len(result.Taint) != 2 {
			t.Errorf("the result's receipt is %+v", result)
		}
		if denied := only(t, all, audit.KindResult, "hammer"); denied.Outcome != "denied" {
			t.Errorf("what is not allowed leaves %+v", denied)
		}
		sent := only(t, all, audit.KindDecision, "send_message")
		if sent.Outcome != "done" || sent.Subject == "" || sent.Peer != alice.id.ID() {
			t.Errorf("the answer's receipt is %+v", sent)
		}
		if raw := must(os.ReadFile(must(audit.Files(dir))[0])); bytes.Contains(raw, []byte("hunter2")) {
			t.Error("contents are in the log")
		}
	})
}

// TestMessageOfOneAgentIsFoundAtTheOther has two agents of one log.
func TestMessageOfOneAgentIsFoundAtTheOther(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b := newWorld(t), newBook(t, dir)
		hearer := w.config(&script{})
		said := false
		speaker := w.config(&script{decide: func(converge.Turn) (all []converge.Decision) {
			if !said {
				for range 3 {
					all = append(all, converge.SendMessage{Draft: message.Draft{To: hearer.Identity.ID()}})
				}
			}
			said = true
			return all
		}})
		hearer.Audit.Log, speaker.Audit.Log = b.Log, b.Log
		first := w.run(hearer)
		synctest.Wait()
		second := w.run(speaker)
		synctest.Wait()
		second.end()
		first.end()
		all := b.read()
		sent, came := some(all, audit.KindDecision, "send_message"), some(all, audit.KindMessage, "direct")
		if len(sent) != 3 || len(came) != 3 {
			t.Fatalf("%d sent, %d came", len(sent), len(came))
		}
		for i := range sent {
			if sent[i].Subject == "" || sent[i].Subject != came[i].Subject || sent[i].Agent != came[i].Peer {
				t.Errorf("sent %+v, and %+v came", sent[i], came[i])
			}
		}
	})
}

// TestBrokenLogStopsActs closes the log under an agent, which then can do nothing.
func TestBrokenLogStopsActs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b, box := newWorld(t), newBook(t, dir), newToolbox(t)
		alice := w.peer()
		bob := &script{decide: func(turn converge.Turn) []converge.Decision {
			if len(turn.Messages) == 0 {
				return nil
			}
			return []converge.Decision{
				converge.InvokeTool{Tool: "echo", CallID: "x"},
				converge.SendMessage{Draft: message.Draft{To: alice.id.ID(), Body: []byte("hello")}},
				converge.SubmitTask{Spec: task.Spec{Kind: "work"}},
				converge.Wake{After: time.Hour},
			}
		}}
		c := w.config(bob)
		c.Executor, c.Tasks = box.allow("echo"), w.tasks
		c.Audit.Log = b.Log
		r := w.run(c)
		synctest.Wait()
		b.Close()
		alice.say(c.Identity.ID(), "do something")
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		failures := bob.failures()
		for _, err := range failures {
			if !errors.Is(err, converge.ErrAudit) || !errors.Is(err, audit.ErrClosed) {
				t.Errorf("a decision fails with %v", err)
			}
		}
		if n := box.runs.Load(); n != 0 || len(failures) != 3 || r.Stats().Signed != 0 || w.tasks.Stats().Submitted != 0 {
			t.Errorf("%d tools ran, %d decisions failed, %+v", n, len(failures), r.Stats())
		}
		r.end()
		again := w.config(&script{})
		again.Audit.Log = b.Log
		refused := w.run(again)
		synctest.Wait()
		if err := refused.end(); !errors.Is(err, converge.ErrAudit) {
			t.Errorf("an agent starts without a log: %v", err)
		}
	})
}

// TestToolWaitsForTheDisk has a tool look at the log when it begins.
func TestToolWaitsForTheDisk(t *testing.T) {
	for _, wait := range []bool{true, false} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			w, b := newWorld(t), newBook(t, dir)
			seen := make(chan bool, 1)
			tools := tool.NewRegistry()
			tools.Register(tool.Func("look", func(context.Context, json.RawMessage) (tool.Output, error) {
				found := false
				_, err := audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
					found = found || e.Kind == audit.KindCall && e.Action == "look"
					return nil
				}}, dir)
				seen <- found
				return tool.Output{}, err
			}), tool.Options{})
			c := w.config(&script{decide: func(turn converge.Turn) []converge.Decision {
				if len(turn.Results) > 0 {
					return nil
				}
				return []converge.Decision{converge.InvokeTool{Tool: "look"}}
			}})
			c.Executor = &converge.ExecutorConfig{Tools: tools, ToolAllowlist: []string{"look"}}
			c.Audit = converge.AuditConfig{Log: b.Log, Sync: wait}
			r := w.run(c)
			if found := <-seen; found != wait {
				t.Errorf("Sync %t: the receipt is on the disk: %t", wait, found)
			}
			r.end()
			b.Close()
		})
	}
}

// TestFloodOfGarbageDoesNotFillTheLog sends forged frames, and more messages than a limit allows.
func TestFloodOfGarbageDoesNotFillTheLog(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b := newWorld(t), newBook(t, dir)
		alice := w.peer()
		limit := ratelimit.Limit{Rate: 1, Burst: 5}
		limiter := must(ratelimit.New(ratelimit.Config{Global: ratelimit.Unlimited, Sender: limit, Topic: ratelimit.Unlimited}))
		panicky := transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
			if string(m.Body()) == "panic" {
				panic("hook")
			}
			return m, nil
		})
		c := w.config(&script{})
		c.Hooks = []transport.Hook{ratelimit.NewHook(limiter), panicky}
		c.Audit.Log = b.Log
		told := 0
		c.RuntimeHooks.UnverifiedDrop = func(context.Context, *message.Refusal) { told++ }
		r := w.run(c)
		synctest.Wait()
		route := transport.Route{To: c.Identity.ID()}
		for range 1000 {
			if err := alice.raw.Send(t.Context(), route, []byte("garbage")); err != nil {
				t.Fatal(err)
			}
		}
		alice.say(c.Identity.ID(), "panic")
		for range 50 {
			alice.say(c.Identity.ID(), "hello")
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.end()
		count, receipts := map[string]uint64{}, map[string]int{}
		for _, e := range b.read() {
			if e.Kind == audit.KindRefusal {
				count[e.Reason] += max(e.Count, 1)
				receipts[e.Reason]++
			}
		}
		if count["malformed"] != 1000 || receipts["malformed"] != 11 || told != 1000 {
			t.Errorf("garbage: %d in %d receipts, and %d were told of", count["malformed"], receipts["malformed"], told)
		}
		if count["rate_limit"] != 46 || receipts["rate_limit"] != 11 {
			t.Errorf("rate limit: %d in %d receipts", count["rate_limit"], receipts["rate_limit"])
		}
		if count["hook"] != 1 || r.Stats().Hooks.Failed["post_receive"] != 1 {
			t.Errorf("hooks: %d, %+v", count["hook"], r.Stats().Hooks)
		}
	})
}

func TestResultsOfTasksAreRecordedWithWhoSignedThem(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b := newWorld(t), newBook(t, dir)
		submitted := false
		boss := w.config(&script{decide: func(converge.Turn) []converge.Decision {
			if submitted {
				return nil
			}
			submitted = true
			return []converge.Decision{converge.SubmitTask{Spec: task.Spec{Kind: "work"}}}
		}})
		worker := w.config(&script{decide: func(turn converge.Turn) (all []converge.Decision) {
			for _, t := range turn.Tasks {
				all = append(all, converge.ClaimTask{TaskID: t.ID})
			}
			for _, t := range turn.Claimed {
				all = append(all, converge.ReportTask{TaskID: t.ID, Result: []byte("42")})
			}
			return all
		}})
		boss.Tasks, worker.Tasks = w.tasks, w.tasks
		boss.Audit.Log, worker.Audit.Log = b.Log, b.Log
		w.run(worker)
		synctest.Wait()
		w.run(boss)
		synctest.Wait()
		time.Sleep(time.Second)
		all := b.read()
		submit, claim, report := only(t, all, audit.KindDecision, "submit_task"), only(t, all, audit.KindDecision, "claim_task"), only(t, all, audit.KindDecision, "report_task")
		ended := only(t, all, audit.KindTask, "work")
		if submit.Subject == "" || submit.Subject != claim.Subject || claim.Subject != report.Subject || report.Subject != ended.Subject {
			t.Errorf("%+v\n%+v\n%+v\n%+v", submit, claim, report, ended)
		}
		caused(t, ended, submit)
		if ended.Outcome != "completed" || ended.Peer != worker.Identity.ID() || !strings.HasPrefix(ended.Reason, "signed") || ended.Output == [32]byte{} {
			t.Errorf("%+v", ended)
		}
		for _, turn := range some(all, audit.KindTurn, "") {
			if turn.Agent == worker.Identity.ID() && len(turn.Causes) > 0 {
				caused(t, turn, claim)
				caused(t, report, turn)
			}
		}
	})
}

func TestFailedDecisionsAreRecordedAndLeadToTheNextTurn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, b := newWorld(t), newBook(t, dir)
		done := false
		c := w.config(&script{decide: func(converge.Turn) []converge.Decision {
			if done {
				return nil
			}
			done = true
			return []converge.Decision{converge.ReportTask{TaskID: "not mine"}}
		}})
		c.Tasks, c.Audit.Log = w.tasks, b.Log
		r := w.run(c)
		synctest.Wait()
		time.Sleep(time.Second)
		r.end()
		all := b.read()
		failed := only(t, all, audit.KindDecision, "report_task")
		if failed.Outcome != "failed" || failed.Reason == "" || failed.Subject != "not mine" {
			t.Errorf("%+v", failed)
		}
		turns := some(all, audit.KindTurn, "")
		caused(t, turns[1], failed)
	})
}

// TestWhatAnAgentRecordsItselfLeadsToItsTurn has an agent that asks something else than the runtime.
func TestWhatAnAgentRecordsItselfLeadsToItsTurn(t *testing.T) {
	for _, content := range []bool{true, false} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			w, b := newWorld(t), newBook(t, dir)
			var r *agent
			c := w.config(&script{decide: func(turn converge.Turn) []converge.Decision {
				if len(turn.Messages) > 0 {
					must(r.Record(audit.Receipt{Kind: audit.KindModel, Action: "clever", Outcome: "ok", Content: []byte("thoughts")}))
				}
				return nil
			}})
			c.Audit = converge.AuditConfig{Log: b.Log, Content: content}
			alice := w.peer()
			r = w.run(c)
			synctest.Wait()
			alice.say(c.Identity.ID(), "think")
			synctest.Wait()
			r.end()
			all := b.read()
			model, came := only(t, all, audit.KindModel, "clever"), only(t, all, audit.KindMessage, "direct")
			turns := some(all, audit.KindTurn, "")
			caused(t, turns[len(turns)-1], came, model)
			if model.Agent != c.Identity.ID() || content != (len(model.Content) > 0) {
				t.Errorf("content %t: %+v", content, model)
			}
		})
	}
	w := newWorld(t)
	if seq, err := must(converge.New(w.config(&script{}))).Record(audit.Receipt{Kind: audit.KindModel}); seq != 0 || err != nil {
		t.Errorf("without a log: %d, %v", seq, err)
	}
}
