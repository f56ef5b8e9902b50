package role_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// workshop is a tool that takes its time and counts what it was asked to do.
type workshop struct {
	takes time.Duration

	mu       sync.Mutex
	began    map[int]int // by the param n
	finished map[int]int
	stopped  map[int]int // because the context ended
}

func newWorkshop(p *plant, takes time.Duration) *workshop {
	w := &workshop{takes: takes, began: map[int]int{}, finished: map[int]int{}, stopped: map[int]int{}}
	p.tool("work", w.run)
	return w
}

func (w *workshop) run(ctx context.Context, raw json.RawMessage) (tool.Output, error) {
	var params struct{ N int }
	if err := json.Unmarshal(raw, &params); err != nil {
		return tool.Output{}, err
	}
	w.note(w.began, params.N)
	select {
	case <-time.After(w.takes):
	case <-ctx.Done():
		w.note(w.stopped, params.N)
		return tool.Output{}, ctx.Err()
	}
	w.note(w.finished, params.N)
	return tool.Output{Data: fmt.Appendf(nil, "result %d", params.N), ContentType: "text/plain"}, nil
}

func (w *workshop) note(in map[int]int, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in[n]++
}

// tasks returns on how many tasks the tool was begun, finished and stopped.
func (w *workshop) tasks() [3]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return [3]int{len(w.began), len(w.finished), len(w.stopped)}
}

// expectAllOnce wants each of n tasks to have been run to its end once, and not begun otherwise.
func (w *workshop) expectAllOnce(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range n {
		if w.began[i] != 1 || w.finished[i] != 1 {
			t.Errorf("task %d was begun %d times and finished %d times", i, w.began[i], w.finished[i])
		}
	}
}

// expectAllSigned wants every task completed, vouched for, and with its own result.
func expectAllSigned(t *testing.T, k *role.Coordinator) {
	t.Helper()
	select {
	case <-k.Done():
	default:
		t.Errorf("not done: %+v", k.Progress())
	}
	for i, o := range k.Outcomes() {
		if !o.Signed || o.Err != nil || o.Task.Status != task.Completed || string(o.Task.Result) != fmt.Sprintf("result %d", i) {
			t.Errorf("task %d: signed %t, %v, %s %q", i, o.Signed, o.Err, o.Task.Status, o.Task.Result)
		}
	}
}

// await waits until the coordinator is done, and returns how long that took.
func await(t *testing.T, k *role.Coordinator, most time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	select {
	case <-k.Done():
	case <-time.After(most):
		t.Fatalf("not done after %v: %+v", most, k.Progress())
	}
	return time.Since(start)
}

func expectError(t *testing.T, o role.Outcome, status task.Status, text string) {
	t.Helper()
	if o.Task.Status != status || o.Signed || o.Err == nil || !strings.Contains(o.Err.Error(), text) {
		t.Errorf("outcome %v, signed %t, %v; want %v, %s", o.Task.Status, o.Signed, o.Err, status, text)
	}
}

func TestAllTasksAreDoneOnceAndVouchedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		for seed := range 4 {
			p.worker(agent(byte(10+seed)), 5)
		}
		var told []role.Progress
		k := p.coordinator(alice, role.CoordinatorConfig{
			Tasks: specs(n, "work"), Window: 50, Progress: func(p role.Progress) { told = append(told, p) },
		}, converge.Config{})
		if took := await(t, k, time.Minute); took > 12*time.Second {
			t.Errorf("20 hands took %v for 200 tasks of a second", took)
		}
		synctest.Wait()
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
		claimants := map[identity.ID]int{}
		for _, o := range k.Outcomes() {
			claimants[o.Task.Claimant]++
			if o.Task.Epoch != 1 || o.Task.ResultType != "text/plain" || o.Task.Submitter != alice.ID() {
				t.Errorf("record %+v", o.Task)
			}
		}
		if len(claimants) != 4 {
			t.Errorf("the work was done by %d of 4 workers", len(claimants))
		}
		if s := p.tasks.Stats(); s.Completed != n || s.Claimed != n || s.Failed+s.Cancelled+s.Expired != 0 {
			t.Errorf("the tasks' statistics are %+v", s)
		}

		var last role.Progress
		for _, now := range told {
			if now.Total != n || now.Submitted < last.Submitted || now.Completed < last.Completed || now.Failed != 0 || now.Submitted-now.Completed > 50 {
				t.Errorf("progress went from %+v to %+v", last, now)
			}
			last = now
		}
		if want := (role.Progress{Total: n, Submitted: n, Completed: n}); last != want || k.Progress() != want {
			t.Errorf("progress ends at %+v, %+v", last, k.Progress())
		}
	})
}

func TestSeveralCoordinatorsGetTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		newWorkshop(p, time.Second)
		for seed := range 3 {
			p.worker(agent(byte(10+seed)), 2)
		}
		var all []*role.Coordinator
		for seed := range 3 {
			all = append(all, p.coordinator(agent(byte(20+seed)), role.CoordinatorConfig{Tasks: specs(30, "work")}, converge.Config{}))
		}
		for i, k := range all {
			await(t, k, time.Minute)
			expectAllSigned(t, k)
			for _, o := range k.Outcomes() {
				if o.Task.Submitter != agent(byte(20+i)).ID() {
					t.Errorf("coordinator %d has a task of %s", i, o.Task.Submitter.Short())
				}
			}
		}
	})
}

// TestTasksThatNobodyServesDoNotHideOthers submits more urgent tasks of an unknown kind, which ask for
// nothing, than a turn shows.
func TestTasksThatNobodyServesDoNotHideOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		p.worker(bob, 10)
		for range 2 * converge.DefaultTurnTasks {
			p.submit(mallory, task.Spec{Kind: "distraction", Priority: 100})
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(10, "work")}, converge.Config{})
		await(t, k, time.Minute)
		expectAllSigned(t, k)
		w.expectAllOnce(t, 10)
	})
}

// TestResultAlteredOnTheStoreIsNoResult has somebody who can write to the store put another result in the place
// of the worker's, with its signature or with one of Mallory's.
func TestResultAlteredOnTheStoreIsNoResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		newWorkshop(p, time.Second)
		p.worker(bob, 1)
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(1, "work")}, converge.Config{})
		await(t, k, time.Minute)
		synctest.Wait()
		expectAllSigned(t, k)
		id := k.Outcomes()[0].Task.ID
		key := store.Key("task", id)
		e := must(p.store.Get(t.Context(), key))
		altered := bytes.Replace(e.Value, []byte("result 0"), []byte("result 9"), 1)
		if bytes.Equal(altered, e.Value) {
			t.Fatal("the record does not hold the result as it is")
		}
		must(p.store.Put(t.Context(), key, altered, e.Revision))
		if got, err := p.tasks.Get(t.Context(), id); !errors.Is(err, task.ErrForged) || !errors.Is(err, task.ErrRecord) {
			t.Errorf("the record is read as %+v, %v", got, err)
		}
	})
}

// TestToolThatFailsFailsItsTaskOnly runs tools that fail in every way beside one that works.
func TestToolThatFailsFailsItsTaskOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		newWorkshop(p, time.Second)
		p.tool("fails", func(context.Context, json.RawMessage) (tool.Output, error) {
			return tool.Output{}, errors.New("exit status 3: no such file")
		})
		p.tool("panics", func(context.Context, json.RawMessage) (tool.Output, error) { panic("out of tune") })
		p.tool("late", func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
			<-ctx.Done()
			return tool.Output{}, ctx.Err()
		})
		p.tool("fat", func(context.Context, json.RawMessage) (tool.Output, error) {
			return tool.Output{Data: make([]byte, task.MaxResult+1)}, nil
		})
		p.tool("odd", func(context.Context, json.RawMessage) (tool.Output, error) {
			return tool.Output{ContentType: "text/\x00"}, nil
		})
		p.worker(bob, 4)
		all := specs(1, "work")
		for _, kind := range []string{"fails", "panics", "late", "fat", "odd"} {
			all = append(all, specs(1, kind)...)
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: all}, converge.Config{})
		await(t, k, 2*time.Minute)
		outcomes := k.Outcomes()
		if !outcomes[0].Signed || outcomes[0].Err != nil {
			t.Errorf("the tool that works: %+v", outcomes[0])
		}
		expectError(t, outcomes[1], task.Failed, "exit status 3: no such file")
		expectError(t, outcomes[2], task.Failed, "panicked")
		expectError(t, outcomes[3], task.Failed, "timed out")
		expectError(t, outcomes[4], task.Failed, "the result has 524289 bytes")
		expectError(t, outcomes[5], task.Failed, "media type")
		if got := k.Progress(); got.Completed != 1 || got.Failed != 5 {
			t.Errorf("progress %+v", got)
		}
	})
}

// TestLargestResultIsCompleted is at the limit that TestToolThatFailsFailsItsTaskOnly is beyond.
func TestLargestResultIsCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		p.tool("fat", func(context.Context, json.RawMessage) (tool.Output, error) {
			return tool.Output{Data: make([]byte, task.MaxResult)}, nil
		})
		p.worker(bob, 1)
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(1, "fat")}, converge.Config{})
		await(t, k, time.Minute)
		if o := k.Outcomes()[0]; !o.Signed || len(o.Task.Result) != task.MaxResult {
			t.Errorf("signed %t, %v, %d bytes", o.Signed, o.Err, len(o.Task.Result))
		}
	})
}

// TestDeadlineCancelsTasksAndStopsTheirTools gives 100 tasks of 10 seconds, to be done two at a time, 15
// seconds.
func TestDeadlineCancelsTasksAndStopsTheirTools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, 10*time.Second)
		p.worker(bob, 2)
		k := p.coordinator(alice, role.CoordinatorConfig{
			Tasks: withTTL(specs(100, "work"), 3*time.Second), Window: 10, Deadline: 15 * time.Second,
		}, converge.Config{})
		if took := await(t, k, time.Minute); took != 15*time.Second {
			t.Errorf("done after %v", took)
		}
		time.Sleep(5 * time.Second) // until the next heartbeats
		if got, want := k.Progress(), (role.Progress{Total: 100, Submitted: 12, Completed: 2, Failed: 98}); got != want {
			t.Errorf("progress %+v, want %+v", got, want)
		}
		status := map[task.Status]int{}
		for _, o := range k.Outcomes() {
			status[o.Task.Status]++
			if o.Signed != (o.Err == nil) || o.Signed != (o.Task.Status == task.Completed) {
				t.Errorf("outcome %+v", o)
			}
		}
		if status[task.Completed] != 2 || status[task.Cancelled] != 10 || status[0] != 88 {
			t.Errorf("the tasks ended as %v", status)
		}
		// A worker whose tool is stopped is free, and may begin a task that is about to be cancelled, too.
		if got := w.tasks(); got[0] < 4 || got[0] > 12 || got[1] != 2 || got[2] != got[0]-2 {
			t.Errorf("the tool was begun, finished and stopped on %v tasks, want 2 finished and the others stopped", got)
		}
		// The worker is free again.
		next := p.coordinator(carol, role.CoordinatorConfig{Tasks: specs(2, "work")}, converge.Config{})
		await(t, next, 11*time.Second)
		expectAllSigned(t, next)
	})
}

func withTTL(all []task.Spec, ttl time.Duration) []task.Spec {
	for i := range all {
		all[i].ClaimTTL = ttl
	}
	return all
}

// TestFullManagerDelaysButLosesNothing lets only three tasks wait at a time.
func TestFullManagerDelaysButLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{MaxPending: 3})
		w := newWorkshop(p, time.Second)
		p.worker(bob, 2)
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(40, "work")}, converge.Config{})
		await(t, k, 5*time.Minute)
		synctest.Wait()
		expectAllSigned(t, k)
		w.expectAllOnce(t, 40)
	})
}

// TestTasksOfAWorkerThatIsStoppedAreDoneByTheOthers stops one in the middle of its work, which takes
// longer than it may drain.
func TestTasksOfAWorkerThatIsStoppedAreDoneByTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 12
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, 25*time.Second)
		stop := p.worker(bob, 3)
		p.worker(carol, 3)
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, converge.Config{})
		time.Sleep(5 * time.Second)
		stop()
		await(t, k, 5*time.Minute)
		synctest.Wait()
		expectAllSigned(t, k)
		again := 0
		for i, o := range k.Outcomes() {
			if o.Task.Claimant != carol.ID() {
				t.Errorf("task %d was done by %s, who had stopped", i, o.Task.Claimant.Short())
			}
			if o.Task.Epoch > 1 {
				again++
			}
		}
		if got, want := w.tasks(), [3]int{n, n, 3}; again != 3 || got != want {
			t.Errorf("%d tasks changed hands; the tool was begun, finished and stopped on %v tasks, want %v", again, got, want)
		}
		if s := p.tasks.Stats(); s.Completed != n || s.Expired != 0 {
			t.Errorf("the claims were not given back: %+v", s)
		}
	})
}

// TestWorkerThatStopsFinishesWhatItCan has time enough to drain.
func TestWorkerThatStopsFinishesWhatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, 8*time.Second)
		stop := p.worker(bob, 2)
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(5, "work")}, converge.Config{})
		time.Sleep(time.Second)
		stop()
		synctest.Wait()
		if got := k.Progress(); got.Completed != 2 || got.Failed != 0 || w.tasks()[2] != 0 {
			t.Errorf("progress %+v, the tool was stopped on %d tasks", got, w.tasks()[2])
		}
		p.worker(carol, 2)
		await(t, k, time.Minute)
		synctest.Wait()
		expectAllSigned(t, k)
		w.expectAllOnce(t, 5)
	})
}

// TestTasksOfAWorkerThatCrashedAreDoneByTheOthers has one claim what it can get and then do nothing.
func TestTasksOfAWorkerThatCrashedAreDoneByTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		crashed := false
		p.run(mallory, converge.Config{
			Capabilities: []discovery.Capability{{Name: "work"}},
			Agent: decide(func(t converge.Turn) (all []converge.Decision) {
				for _, pending := range t.Tasks {
					if !crashed {
						all = append(all, converge.ClaimTask{TaskID: pending.ID})
					}
				}
				crashed = crashed || len(t.Claimed) > 0
				return all
			}),
		})
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: withTTL(specs(5, "work"), 10*time.Second)}, converge.Config{})
		synctest.Wait()
		p.worker(bob, 5)
		if took := await(t, k, time.Minute); took < 10*time.Second {
			t.Errorf("done after %v, though somebody held the tasks", took)
		}
		synctest.Wait()
		expectAllSigned(t, k)
		w.expectAllOnce(t, 5)
		if s := p.tasks.Stats(); s.Expired == 0 {
			t.Errorf("no claim expired: %+v", s)
		}
	})
}
