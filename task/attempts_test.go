package task_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

func claimed(t *testing.T, m *task.Manager, id string, p task.Profile) task.Claim {
	t.Helper()
	c, _, err := m.Claim(t.Context(), id, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func got(t *testing.T, m *task.Manager, id string) task.Task {
	t.Helper()
	k, err := m.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A failure with attempts left hides the task for a pause that doubles, and shows it when that is over.
func TestFailedAttemptIsRepeatedAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		var r recorder
		defer m.Attach(r.listen)()
		backoff := task.Backoff{Base: 10 * time.Second, Max: 25 * time.Second}
		mustSubmit(t, m, task.Spec{ID: "t", MaxAttempts: 5, Backoff: backoff})
		for n, longest := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second, 25 * time.Second} {
			c := claimed(t, m, "t", alice)
			if c.Epoch != uint64(n+1) {
				t.Errorf("epoch %d in attempt %d", c.Epoch, n+1)
			}
			r.reset()
			failed, err := m.Fail(t.Context(), c, "bad day")
			if err != nil || failed.Status != task.Pending || failed.Attempts != n+1 || failed.Error != "bad day" || !failed.Claimant.IsZero() {
				t.Fatalf("Fail gives %+v, %v", failed, err)
			}
			pause := time.Until(failed.ReadyAt)
			if pause <= longest/2-1 || pause > longest {
				t.Errorf("pause %v after failure %d, want up to %v", pause, n+1, longest)
			}
			_, _, err = m.Claim(t.Context(), "t", bob)
			wantIs(t, err, task.ErrNotPending)
			time.Sleep(pause - 1)
			synctest.Wait()
			if v := m.Visible(alice, 1); v != nil {
				t.Errorf("%v is visible too early", idsOf(v))
			}
			r.reset()
			time.Sleep(time.Nanosecond)
			r.want(t, "t pending "+string(rune('0'+n+1)))
			if v := m.Visible(alice, 1); len(v) != 1 || v[0].Error != "bad day" {
				t.Errorf("%+v is visible", v)
			}
		}
		dead, err := m.Fail(t.Context(), claimed(t, m, "t", alice), "worst day")
		if err != nil || dead.Status != task.Failed || !dead.DeadLetter || dead.Attempts != 5 || dead.Error != "worst day" || dead.Claimant != alice.Agent {
			t.Errorf("the last Fail gives %+v, %v", dead, err)
		}
		time.Sleep(24 * time.Hour)
		if v := m.Visible(alice, 1); v != nil {
			t.Errorf("a dead letter is visible: %v", v)
		}
		if s := m.Stats(); s.Retried != 4 || s.Failed != 1 || s.DeadLettered != 1 {
			t.Errorf("Stats gives %+v", s)
		}
	})
}

// Pauses of many tasks that fail at once are spread by chance.
func TestPausesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		seen := map[time.Duration]bool{}
		for range 50 {
			k := mustSubmit(t, m, task.Spec{MaxAttempts: 2})
			failed, err := m.Fail(t.Context(), claimed(t, m, k.ID, alice), "")
			if err != nil {
				t.Fatal(err)
			}
			seen[time.Until(failed.ReadyAt)] = true
		}
		if len(seen) < 40 {
			t.Errorf("50 tasks have %d pauses", len(seen))
		}
	})
}

func TestWhatCountsAsAnAttempt(t *testing.T) {
	for _, attached := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newManager(t, newStore(t))
			if attached {
				defer m.Attach(func(task.Task) {})()
			}
			mustSubmit(t, m, task.Spec{ID: "t", MaxAttempts: 3, ClaimTTL: time.Second})
			for range 5 {
				if _, err := m.Release(t.Context(), claimed(t, m, "t", alice)); err != nil {
					t.Fatal(err)
				}
			}
			if k := got(t, m, "t"); k.Attempts != 0 || k.Epoch != 5 {
				t.Errorf("after releases: %+v", k)
			}
			for range 2 {
				claimed(t, m, "t", alice) // and vanishes
				time.Sleep(time.Second)
				synctest.Wait()
			}
			last := claimed(t, m, "t", alice)
			if k := got(t, m, "t"); k.Attempts != 2 || k.Epoch != 8 {
				t.Errorf("after two claims that ran out: %+v", k)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			_, err := m.Report(t.Context(), last, nil, "")
			if !task.IsLost(err) {
				t.Errorf("the report of the last attempt, too late: %v", err)
			}
			if _, _, err = m.Claim(t.Context(), "t", bob); err == nil {
				t.Error("a fourth attempt was granted")
			}
			if v := m.Visible(bob, 1); v != nil {
				t.Errorf("visible: %v", v)
			}
			if k := got(t, m, "t"); attached && (k.Status != task.Failed || !k.DeadLetter || k.Attempts != 3 || k.Error != "claim expired") {
				t.Errorf("after the last attempt: %+v", k)
			}
		})
	}
}

// A task that kills whoever takes it does not do so for ever, even where nobody has thought of that.
func TestPoisonedTaskIsADeadLetterInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		defer m.Attach(func(task.Task) {})()
		mustSubmit(t, m, task.Spec{ID: "t"})
		n := 0
		for ; ; n++ {
			if _, _, err := m.Claim(t.Context(), "t", alice); err != nil {
				wantIs(t, err, task.ErrTerminal)
				break
			}
			time.Sleep(30 * time.Second)
			synctest.Wait()
		}
		if k := got(t, m, "t"); n != task.DefaultLapses || !k.DeadLetter || k.Attempts != n {
			t.Errorf("after %d claims: %+v", n, k)
		}
	})
}

func TestFailureEndsATaskThatAsksForNoOtherAttempts(t *testing.T) {
	m := newManager(t, newStore(t))
	mustSubmit(t, m, task.Spec{ID: "plain"})
	mustSubmit(t, m, task.Spec{ID: "hopeless", MaxAttempts: 9})
	plain, err := m.Fail(t.Context(), claimed(t, m, "plain", alice), "no")
	if err != nil || plain.Status != task.Failed || plain.DeadLetter {
		t.Errorf("Fail gives %+v, %v", plain, err)
	}
	hopeless, err := m.FailPermanently(t.Context(), claimed(t, m, "hopeless", alice), "never")
	if err != nil || hopeless.Status != task.Failed || hopeless.DeadLetter || hopeless.Error != "never" {
		t.Errorf("FailPermanently gives %+v, %v", hopeless, err)
	}
	for _, id := range []string{"plain", "hopeless"} {
		_, err := m.Requeue(t.Context(), id, submitter)
		wantIs(t, err, task.ErrNotDead)
	}
}

func TestRequeueIsTheOneWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m, other := newManager(t, s), newManager(t, s)
		var r recorder
		defer other.Attach(r.listen)()
		deadline := time.Now().Add(time.Hour)
		mustSubmit(t, m, task.Spec{ID: "t", MaxAttempts: 1, Deadline: deadline})
		last := claimed(t, m, "t", alice)
		_, err := m.Requeue(t.Context(), "t", submitter)
		wantIs(t, err, task.ErrNotDead)
		if _, err := m.Fail(t.Context(), last, "no"); err != nil {
			t.Fatal(err)
		}
		for _, by := range []identity.ID{{}, alice.Agent} {
			_, err := m.Requeue(t.Context(), "t", by)
			wantIs(t, err, task.ErrNotSubmitter)
		}
		r.reset()
		again, err := m.Requeue(t.Context(), "t", submitter)
		if err != nil || again.Status != task.Pending || again.Attempts != 0 || again.DeadLetter || again.Error != "" || again.Epoch != 1 {
			t.Errorf("Requeue gives %+v, %v", again, err)
		}
		r.want(t, "t pending 1")
		if v := other.Visible(bob, 1); len(v) != 1 {
			t.Error("a requeued task is not visible")
		}
		_, err = m.Report(t.Context(), last, nil, "")
		wantIs(t, err, task.ErrClaimLost)
		next := claimed(t, other, "t", bob)
		if next.Epoch != 2 {
			t.Errorf("epoch %d after epoch 1", next.Epoch)
		}
		if dead, err := other.Fail(t.Context(), next, "no"); err != nil || !dead.DeadLetter {
			t.Errorf("Fail gives %+v, %v", dead, err)
		}
		time.Sleep(time.Hour)
		_, err = m.Requeue(t.Context(), "t", submitter)
		wantIs(t, err, task.ErrTerminal)
		if m.Stats().Requeued != 1 {
			t.Errorf("Stats gives %+v", m.Stats())
		}
	})
}

func TestOfManyRequeuesOneCounts(t *testing.T) {
	s := newStore(t)
	m := newManager(t, s)
	mustSubmit(t, m, task.Spec{ID: "t", MaxAttempts: 1})
	if _, err := m.Fail(t.Context(), claimed(t, m, "t", alice), "no"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		other := newManager(t, s)
		all.Go(func() {
			if _, err := other.Requeue(t.Context(), "t", submitter); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if won != 1 {
		t.Errorf("%d of 8 requeued the task", won)
	}
}

// A deadline ends a task between two attempts too, and cancelling works then.
func TestDeadlineAndCancellationBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		var r recorder
		defer m.Attach(r.listen)()
		long := task.Backoff{Base: time.Hour, Max: time.Hour}
		for _, id := range []string{"late", "off"} {
			mustSubmit(t, m, task.Spec{ID: id, MaxAttempts: 9, Backoff: long, Deadline: time.Now().Add(time.Minute)})
			if _, err := m.Fail(t.Context(), claimed(t, m, id, alice), "no"); err != nil {
				t.Fatal(err)
			}
		}
		off, err := m.Cancel(t.Context(), "off", submitter)
		if err != nil || off.Status != task.Cancelled || off.Error != "" {
			t.Errorf("Cancel gives %+v, %v", off, err)
		}
		r.reset()
		time.Sleep(time.Minute)
		r.want(t, "late failed 1")
		if k := got(t, m, "late"); k.Error != "deadline exceeded" || k.DeadLetter {
			t.Errorf("%+v", k)
		}
	})
}

func TestTaskIsShownWhenItIsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m, other := newManager(t, s), newManager(t, s)
		var here, there recorder
		defer m.Attach(here.listen)()
		defer other.Attach(there.listen)()
		k := mustSubmit(t, m, task.Spec{ID: "t", NotBefore: time.Now().Add(time.Hour)})
		mustSubmit(t, m, task.Spec{ID: "sooner", NotBefore: time.Now().Add(time.Minute)})
		past := mustSubmit(t, m, task.Spec{ID: "past", NotBefore: time.Now().Add(-time.Minute)})
		if !k.ReadyAt.Equal(k.NotBefore) || !past.ReadyAt.IsZero() {
			t.Errorf("ready at %v and %v", k.ReadyAt, past.ReadyAt)
		}
		_, _, err := other.Claim(t.Context(), "t", alice)
		wantIs(t, err, task.ErrNotPending)
		if err == nil || !strings.Contains(err.Error(), "yet") {
			t.Errorf("%v does not say that it is early", err)
		}
		late := newManager(t, s) // which has to find it out itself
		defer late.Attach(func(task.Task) {})()
		unattended := newManager(t, s)
		here.reset()
		there.reset()
		for _, m := range []*task.Manager{m, other, late, unattended} {
			if v := idsOf(m.Visible(alice, 9)); !slices.Equal(v, []string{"past"}) {
				t.Errorf("visible at first: %v", v)
			}
		}
		time.Sleep(time.Minute)
		here.want(t, "sooner pending 0")
		there.want(t, "sooner pending 0")
		time.Sleep(59*time.Minute - 1)
		here.want(t)
		time.Sleep(time.Nanosecond)
		here.want(t, "t pending 0")
		there.want(t, "t pending 0")
		for _, m := range []*task.Manager{m, other, late, unattended} {
			if v := m.Visible(alice, 9); len(v) != 3 {
				t.Errorf("visible in the end: %v", idsOf(v))
			}
		}
		claimed(t, other, "t", alice)
	})
}

// The task that waits can be cancelled, and is gone from what waits.
func TestWaitingTaskCanBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t), func(c *task.Config) { c.MaxPending = 1 })
		var r recorder
		defer m.Attach(r.listen)()
		mustSubmit(t, m, task.Spec{ID: "t", NotBefore: time.Now().Add(time.Hour)})
		_, err := m.Submit(t.Context(), task.Spec{Kind: "work", Submitter: submitter})
		wantIs(t, err, task.ErrFull)
		if _, err := m.Cancel(t.Context(), "t", submitter); err != nil {
			t.Fatal(err)
		}
		mustSubmit(t, m, task.Spec{ID: "u"})
		r.reset()
		time.Sleep(2 * time.Hour)
		r.want(t)
	})
}
