package remote_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

func TestTasksGoFromSubmitterToWorkerAndBackByMessagesOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob, "sum")
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		time.Sleep(time.Second)

		spec := task.Spec{
			ID: "one", Kind: "sum", Params: json.RawMessage(`{"n":1}`), Capabilities: []string{"sum"}, Priority: -3,
			ClaimTTL: time.Minute, Deadline: time.Now().Add(time.Hour), Submitter: mallory.ID(),
		}
		submitted := boss.mustSubmit(t, spec)
		if submitted.Status != task.Pending || submitted.Submitter != alice.ID() || string(submitted.Params) != `{"n":1}` {
			t.Errorf("submitted %+v", submitted)
		}
		if told := work.tell(); len(told) != 1 || told[0].ID != "one" || string(told[0].Params) != `{"n":1}` || told[0].Submitter != alice.ID() {
			t.Fatalf("the worker was told %+v", told)
		}
		visible := worker.Visible(worker.profile, 10)
		if len(visible) != 1 || visible[0].Priority != -3 || visible[0].Deadline.Sub(spec.Deadline).Abs() > time.Millisecond {
			t.Fatalf("visible: %+v", visible)
		}
		claim, claimed, err := worker.Claim(t.Context(), "one", worker.profile)
		if err != nil || claim.Agent != bob.ID() || claim.Epoch != 1 || string(claimed.Params) != `{"n":1}` || claimed.Status != task.Assigned {
			t.Fatalf("claim %+v, task %+v, %v", claim, claimed, err)
		}
		if left := time.Until(claim.Expires); left <= 0 || left > time.Minute {
			t.Errorf("the claim lasts for %v more, want a minute", left)
		}
		if again := worker.Visible(worker.profile, 10); len(again) != 0 {
			t.Errorf("a claimed task is visible: %+v", again)
		}
		time.Sleep(30 * time.Second)
		renewed, err := worker.Heartbeat(t.Context(), claim)
		if err != nil || !renewed.Expires.After(claim.Expires) {
			t.Errorf("renewed from %v to %v, %v", claim.Expires, renewed.Expires, err)
		}
		if _, err := worker.Report(t.Context(), renewed, []byte("42"), "text/plain"); err != nil {
			t.Fatal(err)
		}
		told := ends.tell()
		if len(told) != 1 || told[0].Status != task.Completed || string(told[0].Result) != "42" || told[0].ResultType != "text/plain" ||
			told[0].Claimant != bob.ID() || string(told[0].Params) != `{"n":1}` {
			t.Errorf("the submitter was told %+v", told)
		}
	})
}

// TestErrorsOfTasksKeepTheirIdentity has each error of package task come through.
func TestErrorsOfTasksKeepTheirIdentity(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker, other := s.client(alice), s.client(bob, "sum"), s.client(carol, "sum")
		ctx := t.Context()
		boss.mustSubmit(t, task.Spec{ID: "a", Capabilities: []string{"sum"}, ClaimTTL: time.Second})
		boss.mustSubmit(t, task.Spec{ID: "b", Capabilities: []string{"rare"}})

		_, err := boss.Submit(ctx, task.Spec{ID: "a", Kind: "other"})
		expectErr(t, "submit under a taken ID", err, task.ErrExists)
		_, err = boss.Submit(ctx, task.Spec{ID: "not a name", Kind: "k"})
		expectErr(t, "submit under a bad ID", err, task.ErrInvalid)
		if err == nil || !strings.Contains(err.Error(), "ID") {
			t.Errorf("%v does not say what is wrong", err)
		}
		_, err = boss.Submit(ctx, task.Spec{ID: "\xff", Kind: "k"})
		expectErr(t, "submit under an ID that is no text", err, task.ErrInvalid)
		_, err = boss.Submit(ctx, task.Spec{ID: "late", Kind: "k", Deadline: time.Now().Add(-time.Second)})
		expectErr(t, "submit after the deadline", err, task.ErrInvalid)
		_, err = boss.Submit(ctx, task.Spec{ID: "large", Kind: "k", Params: make([]byte, 2<<20)})
		expectErr(t, "submit what no message holds", err, task.ErrInvalid)
		_, _, err = worker.Claim(ctx, "nowhere", worker.profile)
		expectErr(t, "claim of no task", err, task.ErrNotFound)
		_, _, err = worker.Claim(ctx, "b", worker.profile)
		expectErr(t, "claim without the capability", err, task.ErrNotRouted)
		claim := worker.mustClaim(t, "a")
		_, _, err = other.Claim(ctx, "a", other.profile)
		expectErr(t, "claim of what is held", err, task.ErrNotPending)
		_, err = other.Cancel(ctx, "b", carol.ID())
		expectErr(t, "cancellation by a third", err, task.ErrNotSubmitter)
		_, err = other.Cancel(ctx, "b", alice.ID())
		expectErr(t, "cancellation in another's name", err, task.ErrNotSubmitter)
		time.Sleep(time.Second)
		_, err = worker.Report(ctx, claim, []byte("late"), "")
		expectErr(t, "late report", err, task.ErrClaimLost)
		_, err = worker.Heartbeat(ctx, claim)
		expectErr(t, "late heartbeat", err, task.ErrClaimLost)
		claim = worker.mustClaim(t, "a")
		if claim.Epoch != 2 {
			t.Errorf("epoch %d, want 2", claim.Epoch)
		}
		if _, err = worker.Fail(ctx, claim, "broken"); err != nil {
			t.Error(err)
		}
		_, err = worker.Report(ctx, claim, nil, "")
		expectErr(t, "report of a failed task", err, task.ErrTerminal)
		if !task.IsLost(err) {
			t.Errorf("IsLost(%v) is false", err)
		}
	})
}

// TestAnswersOfRepeatedRequestsAreTheSame is what makes asking again safe.
func TestAnswersOfRepeatedRequestsAreTheSame(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob, "b", "a")
		ctx := t.Context()
		spec := task.Spec{ID: "x", Kind: "k", Capabilities: []string{"b", "a", "b"}, Deadline: time.Now().Add(time.Hour), Priority: 4}
		for range 2 {
			if got := boss.mustSubmit(t, spec); got.Status != task.Pending {
				t.Errorf("submitted: %v", got.Status)
			}
			time.Sleep(time.Millisecond)
		}
		first := worker.mustClaim(t, "x")
		time.Sleep(time.Second)
		second := worker.mustClaim(t, "x")
		if second.Epoch != 1 || second.Expires.Sub(first.Expires).Abs() > time.Millisecond {
			t.Errorf("the same claim is %+v and then %+v", first, second)
		}
		if got := boss.mustSubmit(t, spec); got.Status != task.Assigned {
			t.Errorf("submitted: %v", got.Status)
		}
		for range 2 {
			if _, err := worker.Release(ctx, first); err != nil {
				t.Errorf("release: %v", err)
			}
		}
		claim := worker.mustClaim(t, "x")
		if _, err := worker.Release(ctx, first); !errors.Is(err, task.ErrClaimLost) {
			t.Errorf("the release of an older claim: %v", err)
		}
		for range 2 {
			if got, err := worker.Report(ctx, claim, []byte("r"), "text/plain"); err != nil || got.Status != task.Completed {
				t.Errorf("report: %v, %v", got.Status, err)
			}
		}
		_, err := worker.Report(ctx, claim, []byte("other"), "text/plain")
		expectErr(t, "another report", err, task.ErrTerminal)
		if got := boss.mustSubmit(t, spec); got.Status != task.Completed || string(got.Result) != "r" {
			t.Errorf("submitted again after its end: %v with %q", got.Status, got.Result)
		}
		boss.mustSubmit(t, task.Spec{ID: "y", Kind: "k"})
		for range 2 {
			if got, err := boss.Cancel(ctx, "y", alice.ID()); err != nil || got.Status != task.Cancelled {
				t.Errorf("cancel: %v, %v", got.Status, err)
			}
		}
		boss.mustSubmit(t, task.Spec{ID: "z", Kind: "k"})
		claim = worker.mustClaim(t, "z")
		reason := strings.Repeat("é", 4<<10)
		for range 2 {
			if got, err := worker.Fail(ctx, claim, reason); err != nil || got.Status != task.Failed {
				t.Errorf("fail: %v, %v", got.Status, err)
			}
		}
	})
}

func TestManyOperationsTakeFewRequests(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		const n = 200
		var submit, claim []remote.Op
		for i := range n {
			id := fmt.Sprintf("t%03d", i)
			params := fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", i*50))
			submit = append(submit, remote.Op{Kind: remote.OpSubmit, Spec: task.Spec{ID: id, Kind: "k", Params: params}})
			claim = append(claim, remote.Op{Kind: remote.OpClaim, TaskID: id})
		}
		submit[7].Spec.Kind = "not a name"
		for i, r := range boss.Do(t.Context(), submit) {
			if i == 7 {
				expectErr(t, "the bad one", r.Err, task.ErrInvalid)
			} else if r.Err != nil || r.Task.ID != submit[i].Spec.ID {
				t.Errorf("%d: %s, %v", i, r.Task.ID, r.Err)
			}
		}
		before := s.desk.Stats().Requests
		for i, r := range worker.Do(t.Context(), claim) {
			if i == 7 {
				expectErr(t, "the one that is not there", r.Err, task.ErrNotFound)
			} else if r.Err != nil || r.Claim.TaskID != claim[i].TaskID || string(r.Task.Params) != string(submit[i].Spec.Params) {
				t.Errorf("%d: %+v, %v", i, r.Claim, r.Err)
			}
		}
		// The tasks have 1 MB of params in all, and an answer ends when it has more than 128 KB.
		if took := s.desk.Stats().Requests - before; took < 7 || took > 20 {
			t.Errorf("the claims took %d requests", took)
		}
		held := s.tasks.Visible(worker.profile, n)
		if len(held) != 0 {
			t.Errorf("%d tasks are still pending", len(held))
		}
	})
}

func TestTwentyRemoteClaimersHaveOneWinnerEach(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss := s.client(alice)
		const claimers, tasks = 20, raceTasks
		for i := range tasks {
			boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i), Capabilities: []string{"race"}})
		}
		var mu sync.Mutex
		won := map[string]int{}
		var all sync.WaitGroup
		for i := range claimers {
			id := agent(byte(100 + i))
			if err := s.registry.Register(id.ID(), id.PublicKey()); err != nil {
				t.Fatal(err)
			}
			c := s.client(id, "race")
			all.Go(func() {
				for n := range tasks {
					claim, _, err := c.Claim(t.Context(), fmt.Sprint((n+i)%tasks), c.profile)
					if errors.Is(err, task.ErrNotPending) {
						continue
					}
					if err != nil {
						t.Error(err)
						continue
					}
					mu.Lock()
					won[claim.TaskID]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if len(won) != tasks || slices.Max(slices.Collect(maps.Values(won))) != 1 {
			t.Errorf("winners: %v", won)
		}
	})
}

func TestClientSeesWhatItsProfileMatchesOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.setPools(map[identity.ID][]string{alice.ID(): {"night"}})
		boss, worker := s.client(alice), s.client(bob, "sum")
		var work recorder
		defer worker.Attach(work.listen)()
		boss.mustSubmit(t, task.Spec{ID: "mine", Capabilities: []string{"sum"}})
		boss.mustSubmit(t, task.Spec{ID: "more", Capabilities: []string{"sum", "hash"}})
		boss.mustSubmit(t, task.Spec{ID: "pool", Pool: "night"})
		time.Sleep(time.Minute)
		if got := work.statuses(); !maps.Equal(got, map[string]int{"mine pending": 1}) {
			t.Errorf("told %v", got)
		}
		for _, id := range []string{"more", "pool"} {
			_, _, err := worker.Claim(t.Context(), id, worker.profile)
			expectErr(t, "claim of "+id, err, task.ErrNotRouted)
		}
		wide := task.Profile{Agent: bob.ID(), Capabilities: []string{"sum", "hash"}}
		_, _, err := worker.Claim(t.Context(), "more", wide)
		expectErr(t, "claim with another profile than the client's", err, task.ErrNotRouted)
	})
}

func TestPolicyNarrowsAndDenies(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.stop()
		s.policy = func(id identity.ID) remote.Rights {
			switch id {
			case alice.ID():
				return remote.Rights{Submit: true}
			case bob.ID():
				return remote.Rights{Work: true, Narrow: func(p task.Profile) task.Profile {
					p.Capabilities = slices.DeleteFunc(p.Capabilities, func(c string) bool { return c == "pay" })
					p.Agent = alice.ID()
					return p
				}}
			}
			return remote.Rights{}
		}
		s.open()
		boss, worker, stranger := s.client(alice, "sum"), s.client(bob, "sum", "pay"), s.client(mallory, "sum")
		ctx := t.Context()
		var seen, seenByBoss recorder
		defer worker.Attach(seen.listen)()
		defer boss.Attach(seenByBoss.listen)()
		boss.mustSubmit(t, task.Spec{ID: "sum", Capabilities: []string{"sum"}})
		boss.mustSubmit(t, task.Spec{ID: "pay", Capabilities: []string{"pay"}})
		time.Sleep(time.Second)
		if got := seen.statuses(); !maps.Equal(got, map[string]int{"sum pending": 1}) {
			t.Errorf("the worker was told %v", got)
		}
		if got := seenByBoss.statuses(); len(got) != 0 {
			t.Errorf("who may not work was shown %v", got)
		}
		_, _, err := worker.Claim(ctx, "pay", worker.profile)
		expectErr(t, "claim of what the policy takes away", err, task.ErrNotRouted)
		_, _, err = boss.Claim(ctx, "sum", boss.profile)
		expectErr(t, "claim by one who may submit", err, remote.ErrNotAllowed)
		_, err = worker.Submit(ctx, task.Spec{Kind: "k"})
		expectErr(t, "submission by one who may work", err, remote.ErrNotAllowed)
		_, err = stranger.Submit(ctx, task.Spec{Kind: "k"})
		expectErr(t, "submission by one who may nothing", err, remote.ErrNotAllowed)
		claim := worker.mustClaim(t, "sum")
		if claim.Agent != bob.ID() || s.expectStatus("sum", task.Assigned).Claimant != bob.ID() {
			t.Errorf("the claim is of %s", claim.Agent)
		}
	})
}
