package task_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

// everybody is a member of every pool.
func everybody(string, identity.ID) bool { return true }

// TestTasksOfAPoolAreItsMembersOnly: whatever a profile says of pools, only membership counts, at each step.
func TestTasksOfAPoolAreItsMembersOnly(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	members := map[identity.ID]bool{alice.Agent: true, submitter: true}
	m := newManager(t, newStore(t), func(c *task.Config) {
		c.Member = func(pool string, agent identity.ID) bool {
			mu.Lock()
			defer mu.Unlock()
			return pool == "painters" && members[agent]
		}
	})
	set := func(agent identity.ID, member bool) { mu.Lock(); members[agent] = member; mu.Unlock() }
	in := func(agent identity.ID) task.Profile { return task.Profile{Agent: agent, Pools: []string{"painters"}} }
	mallory := identity.ID{66}
	if _, err := m.Submit(t.Context(), task.Spec{Kind: "paint", Pool: "painters", Submitter: mallory}); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("a non-member submits: %v", err)
	}
	if _, err := m.Submit(t.Context(), task.Spec{Kind: "paint", Pool: "poets", Submitter: submitter}); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("a member of another pool submits: %v", err)
	}
	for i := range 4 {
		mustSubmit(t, m, task.Spec{ID: fmt.Sprint(i), Kind: "paint", Pool: "painters", Submitter: submitter})
	}
	for _, attached := range []bool{false, true} {
		if attached {
			defer m.Attach(func(task.Task) {})()
		}
		if n, none := len(m.Visible(in(alice.Agent), 9)), len(m.Visible(in(mallory), 9)); n != 4 || none != 0 {
			t.Errorf("attached %v: a member sees %d tasks, a non-member %d", attached, n, none)
		}
	}
	if _, _, err := m.Claim(t.Context(), "0", in(mallory)); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("a non-member claims: %v", err)
	}
	if _, _, err := m.Claim(t.Context(), "0", task.Profile{Agent: alice.Agent}); !errors.Is(err, task.ErrNotRouted) {
		t.Errorf("a member that the task is not routed to claims: %v", err)
	}
	claim, _, err := m.Claim(t.Context(), "0", in(alice.Agent))
	if err != nil {
		t.Fatal(err)
	}
	set(alice.Agent, false) // expelled while it works
	if _, err := m.Heartbeat(t.Context(), claim); !errors.Is(err, task.ErrNotMember) || !task.IsLost(err) {
		t.Errorf("an expelled agent renews its claim: %v", err)
	}
	if _, err := m.Report(t.Context(), claim, nil, ""); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("an expelled agent reports: %v", err)
	}
	if _, err := m.Fail(t.Context(), claim, ""); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("an expelled agent fails the task: %v", err)
	}
	if r, err := m.Release(t.Context(), claim); err != nil || r.Status != task.Pending {
		t.Errorf("an expelled agent gives the task back: %v, %v", r.Status, err)
	}
	set(alice.Agent, true)
	if claim, _, err = m.Claim(t.Context(), "0", in(alice.Agent)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Report(t.Context(), claim, nil, ""); err != nil {
		t.Error(err)
	}
	set(alice.Agent, false)
	if _, err := m.Report(t.Context(), claim, nil, ""); !errors.Is(err, task.ErrTerminal) {
		t.Errorf("reporting again what it had reported: %v", err)
	}
	if _, err := m.Cancel(t.Context(), "1", submitter); err != nil {
		t.Errorf("the submitter cancels: %v", err)
	}
}

func TestWithoutMembershipThereAreNoMembers(t *testing.T) {
	t.Parallel()
	m := newManager(t, newStore(t), func(c *task.Config) { c.Member = nil })
	if _, err := m.Submit(t.Context(), task.Spec{Kind: "paint", Pool: "painters", Submitter: submitter}); !errors.Is(err, task.ErrNotMember) {
		t.Errorf("submit: %v", err)
	}
}
