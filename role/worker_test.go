package role_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

func newWorker(t *testing.T, concurrency int) *role.Worker {
	t.Helper()
	return must(role.NewWorker(role.WorkerConfig{
		Tools: map[string]string{"work": "hammer", "rest": "hammock"}, Concurrency: concurrency,
	}))
}

func TestNewWorkerNamesTheFieldAtFault(t *testing.T) {
	for field, c := range map[string]role.WorkerConfig{
		"Tools":       {},
		"Concurrency": {Tools: map[string]string{"a": "b"}, Concurrency: -1},
	} {
		if _, err := role.NewWorker(c); err == nil || !strings.HasPrefix(err.Error(), "role.WorkerConfig."+field+": ") {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}

func TestCapabilitiesAreWhatTheToolsServe(t *testing.T) {
	var names []string
	for _, c := range newWorker(t, 1).Capabilities() {
		names = append(names, c.Name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"rest", "work"}) {
		t.Errorf("capabilities %v", names)
	}
}

// pending is a task of Alice's that nobody has claimed.
func pending(id, kind string) task.Task {
	return task.Task{
		Spec:   task.Spec{ID: id, Kind: kind, Submitter: alice.ID(), Params: []byte(`{"task":"` + id + `"}`)},
		Status: task.Pending,
	}
}

func result(id, data string, err error) converge.ToolResult {
	return converge.ToolResult{
		CallID: id, TaskID: id, Tool: "hammer", Err: err,
		Output: tool.Output{Data: []byte(data), ContentType: "text/plain"},
	}
}

func claim(id string) converge.Decision { return converge.ClaimTask{TaskID: id} }

// invoke is a call whose params come from Alice.
func invoke(id string) converge.Decision {
	from := taint.Of(taint.Peer(alice.ID().String()))
	return converge.InvokeTool{Tool: "hammer", Params: []byte(`{"task":"` + id + `"}`), CallID: id, TaskID: id, Taint: &from}
}

func report(id, data string) converge.Decision {
	return converge.ReportTask{TaskID: id, Result: []byte(data), ContentType: "text/plain"}
}

func fail(id, reason string) converge.Decision { return converge.FailTask{TaskID: id, Reason: reason} }

func failure(d converge.Decision, err error) converge.Turn {
	return converge.Turn{Failures: []converge.Failure{{Decision: d, Err: fmt.Errorf("store: %w", err)}}}
}

func tasksOf(ids ...string) (turn converge.Turn) {
	for _, id := range ids {
		turn.Tasks = append(turn.Tasks, pending(id, "work"))
	}
	return turn
}

func claimedOf(ids ...string) (turn converge.Turn) {
	for _, id := range ids {
		turn.Claimed = append(turn.Claimed, pending(id, "work"))
	}
	return turn
}

func resultsOf(results ...converge.ToolResult) converge.Turn { return converge.Turn{Results: results} }

// together is one turn in which several things have come.
func together(turns ...converge.Turn) (all converge.Turn) {
	for _, t := range turns {
		all.Tasks = append(all.Tasks, t.Tasks...)
		all.Claimed = append(all.Claimed, t.Claimed...)
		all.Results = append(all.Results, t.Results...)
		all.Failures = append(all.Failures, t.Failures...)
	}
	return all
}

// TestWorkerDecides plays turns to a worker and compares what it decides.
func TestWorkerDecides(t *testing.T) {
	type step struct {
		when string
		turn converge.Turn
		want []converge.Decision
	}
	none := []converge.Decision(nil)
	jammed := &tool.Error{Tool: "hammer", Reason: tool.ErrFailed, Err: errors.New("exit status 3")}
	lost := &tool.Error{Tool: "hammer", Reason: tool.ErrCancelled, Err: fmt.Errorf("no longer held: %w", task.ErrClaimLost)}
	over := &tool.Error{Tool: "hammer", Reason: tool.ErrCancelled, Err: fmt.Errorf("no longer held: %w", task.ErrTerminal)}
	tooLarge := strings.Repeat("x", task.MaxResult+1)
	tooLargeReason := fmt.Sprintf("tool hammer: the result has %d bytes where a task holds at most %d", task.MaxResult+1, task.MaxResult)
	disk := errors.New("disk on fire")

	for name, c := range map[string]struct {
		concurrency int
		steps       []step
	}{
		"claims one at a time": {0, []step{
			{"tasks", tasksOf("1", "2"), []converge.Decision{claim("1")}},
			{"won", together(claimedOf("1"), tasksOf("2")), []converge.Decision{invoke("1")}},
			{"still busy", tasksOf("2"), none},
			{"done", together(resultsOf(result("1", "ok", nil)), tasksOf("2")), []converge.Decision{
				report("1", "ok"), claim("2"),
			}},
		}},
		"claims as many as it may": {3, []step{
			{"tasks", tasksOf("1", "2", "3", "4"), []converge.Decision{claim("1"), claim("2"), claim("3")}},
			{"won two", together(claimedOf("1", "2"), tasksOf("4", "5")), []converge.Decision{invoke("1"), invoke("2"), claim("4")}},
		}},
		"claims only what it has a tool for": {3, []step{
			{"tasks", converge.Turn{Tasks: []task.Task{pending("1", "fly"), pending("2", "work"), pending("3", "")}}, []converge.Decision{claim("2")}},
		}},
		"a claim that was lost to another costs no room": {1, []step{
			{"tasks", tasksOf("1"), []converge.Decision{claim("1")}},
			{"lost", together(failure(claim("1"), task.ErrNotPending), tasksOf("2")), []converge.Decision{claim("2")}},
		}},
		"how the tool fails is how the task fails": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"failed", resultsOf(result("1", "", jammed)), []converge.Decision{
				fail("1", "tool hammer: failed: exit status 3"),
			}},
		}},
		"a result that no task can hold is a failure": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"done", resultsOf(result("1", tooLarge, nil)), []converge.Decision{
				fail("1", tooLargeReason),
			}},
		}},
		"a result that the record refuses is a failure": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"done", resultsOf(result("1", "ok", nil)), []converge.Decision{
				report("1", "ok"),
			}},
			{"refused", failure(report("1", "ok"), task.ErrInvalid), []converge.Decision{fail("1", "store: invalid argument")}},
		}},
		"a tool that found no room is invoked again": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"no room", failure(invoke("1"), converge.ErrTooMany), []converge.Decision{invoke("1")}},
			{"no room", failure(invoke("1"), converge.ErrTooMany), []converge.Decision{invoke("1")}},
		}},
		"a report that did not reach the store is made again": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"done", resultsOf(result("1", "ok", nil)), []converge.Decision{
				report("1", "ok"),
			}},
			{"store down", failure(report("1", "ok"), disk), []converge.Decision{report("1", "ok")}},
			{"claim lost", failure(report("1", "ok"), task.ErrClaimLost), none},
		}},
		"a failure that did not reach the store is reported again": {1, []step{
			{"store down", failure(fail("1", "x"), disk), []converge.Decision{fail("1", "x")}},
			{"ended meanwhile", failure(fail("1", "x"), task.ErrTerminal), none},
			{"not ours", failure(fail("1", "x"), converge.ErrNotHeld), none},
		}},
		"nothing is said of a task that was lost": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"lost", resultsOf(result("1", "", lost)), none},
		}},
		"nothing is said of a task that was cancelled": {1, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"cancelled", resultsOf(result("1", "", over)), none},
		}},
		// Else the end of the old call would end the task under the new claim.
		"a task is not claimed again while its old call goes on": {2, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"expired", tasksOf("1", "2"), []converge.Decision{claim("2")}},
			{"the old call ended", together(resultsOf(result("1", "", lost)), tasksOf("1")), []converge.Decision{claim("1")}},
			{"won again", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"done", resultsOf(result("1", "ok", nil)), []converge.Decision{
				report("1", "ok"),
			}},
		}},
		"a result for nothing": {1, []step{
			{"unknown task", resultsOf(result("1", "ok", nil)), none},
			{"no task", resultsOf(result("", "ok", nil)), none},
		}},
		"takes on nothing more when it stops": {2, []step{
			{"won", claimedOf("1"), []converge.Decision{invoke("1")}},
			{"draining", converge.Turn{Draining: true, Results: []converge.ToolResult{result("1", "ok", nil)}}, []converge.Decision{
				report("1", "ok"),
			}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorker(t, c.concurrency)
			for _, s := range c.steps {
				got, err := w.Decide(t.Context(), s.turn)
				if err != nil {
					t.Fatal(err)
				}
				expectDecisions(t, s.when, got, s.want...)
			}
		})
	}
}

// TestReasonIsFitToBePublished: a tool's error may be of any length and in any bytes.
func TestReasonIsFitToBePublished(t *testing.T) {
	for _, text := range []string{strings.Repeat("ä", 5000), "\xff\xfe", strings.Repeat("\x00", 5000)} {
		w := newWorker(t, 1)
		must(w.Decide(t.Context(), claimedOf("1")))
		err := &tool.Error{Tool: "hammer", Reason: tool.ErrFailed, Err: errors.New(text)}
		decisions := must(w.Decide(t.Context(), resultsOf(result("1", "", err))))
		if reason := decisions[0].(converge.FailTask).Reason; len(reason) > 1024 {
			t.Errorf("a reason of %d bytes", len(reason))
		}
	}
}

// TestWorkersBeginAtDifferentPlaces, so that they do not all ask for the same task.
func TestWorkersBeginAtDifferentPlaces(t *testing.T) {
	first := map[string]int{}
	for seed := range 100 {
		w := must(role.NewWorker(role.WorkerConfig{ID: agent(byte(seed)).ID(), Tools: map[string]string{"work": "hammer"}}))
		var ids []string
		for i := range 64 {
			ids = append(ids, fmt.Sprint(i))
		}
		decisions := must(w.Decide(t.Context(), tasksOf(ids...)))
		first[decisions[0].(converge.ClaimTask).TaskID]++
	}
	if len(first) < 32 {
		t.Errorf("100 workers begin at %d places of 64", len(first))
	}
}
