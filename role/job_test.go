package role_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// errands are tasks without IDs.
func errands(n int) (specs []task.Spec) {
	for i := range n {
		specs = append(specs, task.Spec{Kind: "work", Params: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	return specs
}

// resume starts a coordinator with the state that an earlier one left, if any, and returns what it submits
// first and its state then.
func resume(t *testing.T, tasks []task.Spec, state []byte) (k *role.Coordinator, submitted []task.Spec, left []byte) {
	t.Helper()
	k = must(role.NewCoordinator(role.CoordinatorConfig{ID: me, Verifier: proofs, Tasks: tasks, Deadline: time.Hour}))
	if state != nil {
		if err := k.Restore(state); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.OnStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, d := range must(k.Decide(t.Context(), converge.Turn{})) {
		if d, ok := d.(converge.SubmitTask); ok {
			submitted = append(submitted, d.Spec)
		}
	}
	left = must(k.Checkpoint())
	if again := must(k.Checkpoint()); again != nil {
		t.Errorf("the state is written again although nothing has changed: %x", again)
	}
	return k, submitted, left
}

func TestCoordinatorGoesOnWithItsJob(t *testing.T) {
	_, first, state := resume(t, errands(3), nil)
	if state == nil {
		t.Fatal("the first turn is not preceded by a checkpoint")
	}
	_, second, same := resume(t, errands(3), state)
	for i := range first {
		if first[i].IdempotencyKey == "" || second[i].IdempotencyKey != first[i].IdempotencyKey || second[i].ID != first[i].ID {
			t.Errorf("task %d was submitted as %q, %q and then as %q, %q", i, first[i].ID, first[i].IdempotencyKey, second[i].ID, second[i].IdempotencyKey)
		}
		if first[i].ID != task.IDForKey(me, first[i].IdempotencyKey) {
			t.Errorf("task %d has the ID %q", i, first[i].ID)
		}
	}
	if same != nil {
		t.Errorf("going on has changed the state to %x", same)
	}
}

func TestOtherTasksAreAnotherJob(t *testing.T) {
	_, first, state := resume(t, errands(3), nil)
	for name, tasks := range map[string][]task.Spec{"more": errands(4), "fewer": errands(2), "none before": nil} {
		before := state
		if tasks == nil {
			tasks, before = errands(3), nil
		}
		_, second, left := resume(t, tasks, before)
		if second[0].ID == first[0].ID || left == nil {
			t.Errorf("%s: the job goes on", name)
		}
	}
}

func TestJobThatIsDoneIsNotGoneOnWith(t *testing.T) {
	k, first, _ := resume(t, errands(1), nil)
	done := ended(first[0].ID, bob, "result")
	must(k.Decide(t.Context(), converge.Turn{Ended: []task.Task{done}}))
	select {
	case <-k.Done():
	default:
		t.Fatalf("the job is not done: %+v", k.Outcomes())
	}
	state := must(k.Checkpoint())
	if _, second, _ := resume(t, errands(1), state); second[0].ID == first[0].ID {
		t.Error("the job goes on although it is done")
	}
}

// TestDeadlineOfAJobCountsFromItsFirstStart has a coordinator be away for most of the time that its job has.
func TestDeadlineOfAJobCountsFromItsFirstStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, state := resume(t, errands(1), nil)
		time.Sleep(59 * time.Minute)
		k, _, _ := resume(t, errands(1), state)
		time.Sleep(time.Minute)
		var cancelled int
		for _, d := range must(k.Decide(t.Context(), converge.Turn{})) {
			if _, ok := d.(converge.CancelTask); ok {
				cancelled++
			}
		}
		if cancelled != 1 {
			t.Errorf("%d tasks were cancelled", cancelled)
		}
	})
}

// TestStoreThatIsAwayCostsNoTask has submissions fail for reasons that pass, and for one that does not.
func TestStoreThatIsAwayCostsNoTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, first, _ := resume(t, errands(3), nil)
		failures := []converge.Failure{
			{Decision: converge.SubmitTask{Spec: first[0]}, Err: errors.New("the connection broke; it may have happened")},
			{Decision: converge.SubmitTask{Spec: first[1]}, Err: fmt.Errorf("submit: %w", store.ErrFull)},
			{Decision: converge.SubmitTask{Spec: first[2]}, Err: fmt.Errorf("submit: %w", task.ErrNotMember)},
		}
		again := map[string]bool{}
		for range 3 {
			for _, d := range must(k.Decide(t.Context(), converge.Turn{Failures: failures})) {
				if d, ok := d.(converge.SubmitTask); ok {
					again[d.Spec.ID] = true
				}
			}
			failures = nil
			time.Sleep(time.Second)
		}
		if !again[first[0].ID] || !again[first[1].ID] || again[first[2].ID] || k.Progress().Failed != 1 {
			t.Errorf("submitted again: %v; %+v", again, k.Progress())
		}
	})
}

func TestStateThatIsNoJobIsRefused(t *testing.T) {
	_, _, state := resume(t, errands(1), nil)
	newer := append([]byte{state[0], 2}, state[2:]...)
	for name, bad := range map[string][]byte{
		"empty": {}, "truncated": state[:len(state)-1], "trailing": append(state[:len(state):len(state)], 0), "newer": newer,
		"another flag": append(state[:len(state)-1:len(state)-1], 2), "garbage": []byte("garbage"),
	} {
		k := must(role.NewCoordinator(role.CoordinatorConfig{ID: me, Verifier: proofs, Tasks: errands(1)}))
		if err := k.Restore(bad); err == nil {
			t.Errorf("%s: taken for a job", name)
		}
	}
}

func FuzzRestoreJob(f *testing.F) {
	k := must(role.NewCoordinator(role.CoordinatorConfig{ID: me, Verifier: proofs, Tasks: errands(1)}))
	if err := k.OnStart(f.Context()); err != nil {
		f.Fatal(err)
	}
	f.Add(must(k.Checkpoint()))
	f.Add([]byte{0x85, 1})
	f.Fuzz(func(t *testing.T, state []byte) {
		k := must(role.NewCoordinator(role.CoordinatorConfig{ID: me, Verifier: proofs, Tasks: errands(2)}))
		_ = k.Restore(state) // what it takes, it takes without harm
		if err := k.OnStart(t.Context()); err != nil {
			t.Error(err)
		}
		if left := must(k.Checkpoint()); len(left) == 0 {
			t.Error("a job of other tasks was gone on with")
		}
	})
}
