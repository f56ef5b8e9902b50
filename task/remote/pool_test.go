package remote_test

import (
	"maps"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

// TestTasksOfAPoolAcrossProcesses: the host goes by membership, whatever an agent announces, and by that of the
// moment, also for who has asked before.
func TestTasksOfAPoolAcrossProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.setPools(map[identity.ID][]string{alice.ID(): {"night"}})
		boss, worker, liar := s.client(alice), s.client(bob), s.client(mallory)
		liar.profile.Pools = []string{"night"}
		var work, lies recorder
		defer worker.Attach(work.listen)()
		defer liar.Attach(lies.listen)()
		_, err := worker.Submit(t.Context(), task.Spec{Kind: "k", Pool: "night"})
		expectErr(t, "submission of a non-member", err, task.ErrNotMember)
		boss.mustSubmit(t, task.Spec{ID: "one", Pool: "night"})
		time.Sleep(time.Minute)
		if n := len(work.statuses()) + len(lies.statuses()); n > 0 {
			t.Errorf("agents that are no members were told of %d tasks", n)
		}
		_, _, err = liar.Claim(t.Context(), "one", liar.profile)
		expectErr(t, "claim of a non-member", err, task.ErrNotRouted)

		s.setPools(map[identity.ID][]string{alice.ID(): {"night"}, bob.ID(): {"night"}})
		time.Sleep(10*time.Second + time.Second) // a poll later at most
		if got := work.statuses(); !maps.Equal(got, map[string]int{"one pending": 1}) {
			t.Errorf("told %v", got)
		}
		boss.mustSubmit(t, task.Spec{ID: "two", Pool: "night"})
		time.Sleep(time.Second)
		if n := len(worker.Visible(worker.profile, 9)); n != 2 {
			t.Errorf("a member sees %d tasks", n)
		}
		if n := len(lies.statuses()); n > 0 {
			t.Errorf("who shares a member's announcements was told of %d tasks", n)
		}
		claim, _, err := worker.Claim(t.Context(), "one", worker.profile)
		if err != nil {
			t.Fatal(err)
		}
		s.setPools(map[identity.ID][]string{alice.ID(): {"night"}}) // Bob is expelled
		_, err = worker.Report(t.Context(), claim, nil, "")
		expectErr(t, "report of an expelled agent", err, task.ErrNotMember)
		_, _, err = worker.Claim(t.Context(), "two", worker.profile)
		expectErr(t, "claim of an expelled agent", err, task.ErrNotRouted)
		time.Sleep(time.Minute)
		if n := len(worker.Visible(worker.profile, 9)); n != 0 {
			t.Errorf("an expelled agent sees %d tasks", n)
		}
	})
}
