package role_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
)

// desk is a coordinator and what it has told of its progress.
type desk struct {
	t *testing.T
	*role.Coordinator
	told []role.Progress
}

// newDesk starts a coordinator of the tasks "1" to "n", in the order of their numbers.
func newDesk(t *testing.T, n int, c role.CoordinatorConfig) *desk {
	t.Helper()
	d := &desk{t: t}
	for i := range n {
		c.Tasks = append(c.Tasks, spec(fmt.Sprint(i+1)))
	}
	c.Progress = func(p role.Progress) { d.told = append(d.told, p) }
	if c.Verifier == nil {
		c.Verifier = proofs
	}
	c.ID = me
	d.Coordinator = must(role.NewCoordinator(c))
	if err := d.OnStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

func spec(id string) task.Spec { return task.Spec{ID: id, Kind: "work"} }

// turn plays a turn and returns what is decided, but for the asking for turns to come.
func (d *desk) turn(turn converge.Turn) (decisions []converge.Decision) {
	d.t.Helper()
	all, err := d.Decide(d.t.Context(), turn)
	if err != nil {
		d.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(decision converge.Decision) bool {
		_, ok := decision.(converge.Wake)
		return ok
	})
}

// later plays the turn that the coordinator asks for when nothing comes.
func (d *desk) later(wake time.Duration) (decisions []converge.Decision) {
	d.t.Helper()
	time.Sleep(wake)
	return d.turn(converge.Turn{})
}

// outcome wants the task of that number to have ended so: an error of that text, or signed.
func (d *desk) outcome(n int, want string) {
	d.t.Helper()
	o := d.Outcomes()[n-1]
	got := "open"
	switch {
	case o.Err != nil:
		got = o.Err.Error()
	case o.Signed:
		got = "signed " + string(o.Task.Result)
	}
	if got != want {
		d.t.Errorf("task %d: %s; want %s", n, got, want)
	}
	if o.Signed && o.Err != nil || o.Err == nil != (got == "open" || o.Task.Status == task.Completed && o.Signed) {
		d.t.Errorf("task %d: the outcome contradicts itself: %+v", n, o)
	}
}

func (d *desk) progress(submitted, completed, failed int) {
	d.t.Helper()
	want := role.Progress{Total: len(d.Outcomes()), Submitted: submitted, Completed: completed, Failed: failed}
	if got := d.Progress(); got != want {
		d.t.Errorf("progress %+v, want %+v", got, want)
	}
	if len(d.told) == 0 || d.told[len(d.told)-1] != want {
		d.t.Errorf("told of %+v, want %+v last", d.told, want)
	}
	if want.Done() != d.isDone() {
		d.t.Errorf("done: %t at %+v", d.isDone(), want)
	}
}

func (d *desk) isDone() bool {
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

func submit(ids ...string) (all []converge.Decision) {
	for _, id := range ids {
		all = append(all, converge.SubmitTask{Spec: spec(id)})
	}
	return all
}

func endings(tasks ...task.Task) converge.Turn { return converge.Turn{Ended: tasks} }

func TestNewCoordinatorNamesTheFieldAtFault(t *testing.T) {
	for field, c := range map[string]role.CoordinatorConfig{
		"ID":       {Verifier: proofs},
		"Verifier": {ID: me},
		"Window":   {ID: me, Verifier: proofs, Window: -1},
		"Deadline": {ID: me, Verifier: proofs, Deadline: -1},
		"Tasks":    {ID: me, Verifier: proofs, Tasks: []task.Spec{spec("1"), spec("2"), spec("1")}},
	} {
		if _, err := role.NewCoordinator(c); err == nil || !strings.HasPrefix(err.Error(), "role.CoordinatorConfig") || !strings.Contains(err.Error(), field) {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}

func TestCoordinatorWithoutTasksIsDone(t *testing.T) {
	d := newDesk(t, 0, role.CoordinatorConfig{})
	if !d.isDone() || len(d.turn(converge.Turn{})) != 0 {
		t.Error("there is something to do")
	}
}

func TestCallersTasksAreNotChanged(t *testing.T) {
	mine := []task.Spec{{Kind: "work"}, {Kind: "work"}}
	k := must(role.NewCoordinator(role.CoordinatorConfig{ID: me, Verifier: proofs, Tasks: mine}))
	if mine[0].ID != "" || mine[1].ID != "" {
		t.Errorf("the caller's slice is now %+v", mine)
	}
	if err := k.OnStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := must(k.Decide(t.Context(), converge.Turn{}))
	if a, b := first[0].(converge.SubmitTask).Spec.ID, first[1].(converge.SubmitTask).Spec.ID; a == "" || a == b {
		t.Errorf("the tasks have the IDs %q and %q", a, b)
	}
}

func TestWindowIsKeptFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5, role.CoordinatorConfig{Window: 2})
		expectDecisions(t, "first turn", d.turn(converge.Turn{}), submit("1", "2")...)
		d.progress(2, 0, 0)
		expectDecisions(t, "nothing has come", d.turn(converge.Turn{}))
		expectDecisions(t, "one has ended", d.turn(endings(ended("2", bob, "b"))), submit("3")...)
		d.progress(3, 1, 0)
		expectDecisions(t, "another", d.turn(endings(ended("1", bob, "a"))), submit("4")...)
		expectDecisions(t, "two at once", d.turn(endings(ended("3", bob, ""), ended("4", carol, "d"))), submit("5")...)
		d.progress(5, 4, 0)
		d.turn(endings(ended("5", bob, "e")))
		d.progress(5, 5, 0)
		for n, result := range []string{"a", "b", "", "d", "e"} {
			d.outcome(n+1, "signed "+result)
		}
	})
}

// TestResultThatItsHolderHasNotSignedIsNoResult shows the coordinator records that somebody else than the
// holder has made or changed.
func TestResultThatItsHolderHasNotSignedIsNoResult(t *testing.T) {
	work := func(s task.Spec) task.Spec {
		s.ID, s.Kind, s.Submitter = "1", "work", alice.ID()
		return s
	}
	changed := func(change func(*task.Task)) task.Task {
		r := ended("1", bob, "a")
		change(&r)
		return r
	}
	for name, record := range map[string]task.Task{
		"unsigned":                changed(func(r *task.Task) { r.ResultProof = nil }),
		"with half a signature":   changed(func(r *task.Task) { r.ResultProof = r.ResultProof[:len(r.ResultProof)/2] }),
		"signed by Mallory":       changed(func(r *task.Task) { r.ResultProof = ended("1", mallory, "a").ResultProof }),
		"signed by the submitter": changed(func(r *task.Task) { r.ResultProof = ended("1", alice, "a").ResultProof }),
		"of another result":       changed(func(r *task.Task) { r.Result = []byte("b") }),
		"of another media type":   changed(func(r *task.Task) { r.ResultType = "text/plain" }),
		"of another claim":        changed(func(r *task.Task) { r.Epoch++ }),
		"of another claimant":     changed(func(r *task.Task) { r.Claimant = carol.ID() }),
		"of another task":         changed(func(r *task.Task) { r.ResultProof = ended("2", bob, "a").ResultProof }),
		"for other params": changed(func(r *task.Task) {
			r.ResultProof = endedIn(network, work(task.Spec{Params: []byte(`{"n":1}`)}), bob, "a").ResultProof
		}),
		"for another submitter": changed(func(r *task.Task) {
			other := work(task.Spec{})
			other.Submitter = mallory.ID()
			r.ResultProof = endedIn(network, other, bob, "a").ResultProof
		}),
		"of another network": endedIn("other.example", work(task.Spec{}), bob, "a"),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, 1, role.CoordinatorConfig{})
			d.turn(converge.Turn{})
			expectDecisions(t, "the record", d.turn(endings(record)))
			d.progress(1, 0, 1)
			if o := d.Outcomes()[0]; !errors.Is(o.Err, role.ErrUnsigned) || o.Signed || o.Task.Status != task.Completed {
				t.Errorf("outcome %+v", o)
			}
			d.turn(endings(ended("1", bob, "a"))) // the true one comes too late
			d.progress(1, 0, 1)
		})
	}
}

// TestHolderWhoseKeyComesLateIsBelieved has the coordinator learn late who the worker is.
func TestHolderWhoseKeyComesLateIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := identity.NewRegistry(0)
		d := newDesk(t, 2, role.CoordinatorConfig{Verifier: must(task.NewVerifier(registry, network))})
		d.turn(converge.Turn{})
		d.turn(endings(ended("1", bob, "a"), ended("2", mallory, "b")))
		for range 30 {
			d.later(time.Second)
		}
		d.progress(2, 0, 0)
		if err := registry.Register(bob.ID(), bob.PublicKey()); err != nil {
			t.Fatal(err)
		}
		d.later(time.Second)
		d.progress(2, 1, 0)
		d.outcome(1, "signed a")
		d.later(time.Minute)
		d.progress(2, 1, 1)
		if o := d.Outcomes()[1]; !errors.Is(o.Err, role.ErrUnsigned) || !errors.Is(o.Err, identity.ErrUnknown) {
			t.Errorf("a stranger's outcome is %+v", o)
		}
	})
}

func TestTaskThatDidNotCompleteNeedsNoSignature(t *testing.T) {
	d := newDesk(t, 2, role.CoordinatorConfig{})
	d.turn(converge.Turn{})
	broken := ended("1", bob, "")
	broken.Status, broken.Error = task.Failed, "exit status 3"
	gone := ended("2", bob, "")
	gone.Status = task.Cancelled
	broken.ResultProof, gone.ResultProof = nil, nil
	d.turn(endings(broken, gone))
	d.progress(2, 0, 2)
	d.outcome(1, "failed: exit status 3")
	d.outcome(2, "cancelled: ")
}

func TestWhatHasEndedEndsOnce(t *testing.T) {
	d := newDesk(t, 2, role.CoordinatorConfig{})
	d.turn(converge.Turn{})
	broken := ended("1", bob, "a")
	broken.Status = task.Failed
	for range 3 {
		d.turn(endings(broken, ended("unheard of", bob, "x")))
		d.turn(endings(ended("1", bob, "a"))) // the store contradicts itself
		d.turn(failure(converge.SubmitTask{Spec: spec("1")}, errors.New("late")))
		d.turn(failure(converge.SubmitTask{Spec: spec("unheard of")}, errors.New("late")))
	}
	d.progress(2, 0, 1)
	d.turn(together(failure(converge.SubmitTask{Spec: spec("2")}, task.ErrInvalid), converge.Turn{}))
	d.progress(2, 0, 2)
	d.turn(endings(broken))
}

func TestSubmissionThatFindsNoRoomIsTriedAgain(t *testing.T) {
	d := newDesk(t, 3, role.CoordinatorConfig{Window: 2})
	d.turn(converge.Turn{})
	for _, err := range []error{task.ErrFull, converge.ErrTooMany, task.ErrFull} {
		expectDecisions(t, err.Error(), d.turn(failure(submit("1")[0], err)), submit("1")...)
	}
	expectDecisions(t, "it worked", d.turn(converge.Turn{}))
	expectDecisions(t, "refused", d.turn(failure(submit("2")[0], task.ErrInvalid)), submit("3")...)
	d.progress(3, 0, 1)
	d.outcome(2, "store: invalid argument")
	if o := d.Outcomes()[1]; !errors.Is(o.Err, task.ErrInvalid) || o.Task.ID != "2" {
		t.Errorf("outcome %+v", o)
	}
}

// TestRoomThatAGivenUpTaskLeavesIsUsed has the last task of a full window end without a signature that counts.
func TestRoomThatAGivenUpTaskLeavesIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 2, role.CoordinatorConfig{Window: 1})
		d.turn(converge.Turn{})
		d.turn(endings(ended("1", agent(99), "a"))) // whom nobody knows
		expectDecisions(t, "early", d.later(59*time.Second))
		expectDecisions(t, "given up", d.later(time.Second), submit("2")...)
		d.progress(2, 0, 1)
	})
}

func TestDeadlineCancelsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 6, role.CoordinatorConfig{Window: 4, Deadline: time.Minute})
		first := must(d.Decide(t.Context(), converge.Turn{}))
		if wake := (converge.Wake{After: time.Minute}); !slices.Contains(first[:1], converge.Decision(wake)) {
			t.Errorf("the first turn does not ask for one at the deadline: %s", show(first))
		}
		d.turn(endings(ended("1", bob, "a")))
		d.turn(failure(submit("2")[0], task.ErrFull)) // and is submitted again
		expectDecisions(t, "early", d.later(59*time.Second))
		d.progress(5, 1, 0)

		time.Sleep(time.Second)
		got := d.turn(failure(submit("2")[0], task.ErrFull)) // which now comes too late
		slices.SortFunc(got, func(a, b converge.Decision) int {
			return strings.Compare(a.(converge.CancelTask).TaskID, b.(converge.CancelTask).TaskID)
		})
		cancel := func(id string) converge.Decision { return converge.CancelTask{TaskID: id} }
		expectDecisions(t, "at the deadline", got, cancel("3"), cancel("4"), cancel("5"))
		d.progress(5, 1, 2)
		const late = "not submitted: the coordinator's deadline was over"
		d.outcome(2, late)
		d.outcome(6, late)

		// One is cancelled, one has vanished, one cannot be reached at first.
		gone := ended("3", bob, "")
		gone.Status = task.Cancelled
		disk := errors.New("disk on fire")
		turn := together(failure(cancel("4"), task.ErrNotFound), failure(cancel("5"), disk), failure(cancel("3"), task.ErrTerminal))
		turn.Ended = []task.Task{gone}
		expectDecisions(t, "what became of it", d.turn(turn), cancel("5"))
		expectDecisions(t, "still not", d.turn(failure(cancel("5"), disk)), cancel("5"))
		d.progress(5, 1, 4)
		d.outcome(3, "cancelled: ")
		d.outcome(4, "store: no such task")
		// The last one was faster than its cancellation.
		d.turn(failure(cancel("5"), task.ErrTerminal))
		d.turn(endings(ended("5", bob, "e")))
		d.progress(5, 2, 4)
		expectDecisions(t, "all is done", d.later(time.Hour))
	})
}

func TestCoordinatorThatStopsBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 3, role.CoordinatorConfig{Window: 1, Deadline: time.Minute})
		d.turn(converge.Turn{})
		turn := endings(ended("1", bob, "a"))
		turn.Draining = true
		expectDecisions(t, "draining", d.turn(turn))
		d.progress(1, 1, 0)
		time.Sleep(time.Hour)
		expectDecisions(t, "draining after the deadline", d.turn(converge.Turn{Draining: true}))
	})
}
