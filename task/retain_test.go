package task_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/task"
)

// end submits a task and completes it.
func end(t *testing.T, m *task.Manager, s task.Spec) {
	t.Helper()
	k := mustSubmit(t, m, s)
	if _, err := m.Report(t.Context(), claimed(t, m, k.ID, alice), nil, ""); err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, m *task.Manager) int {
	t.Helper()
	page, err := m.List(t.Context(), task.Filter{}, task.MaxPage, "")
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Tasks)
}

func TestEndedTasksAreDeletedInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := newManager(t, s)
		end(t, m, task.Spec{ID: "before"})
		var r recorder
		defer m.Attach(r.listen)()
		other := newManager(t, s)
		defer other.Attach(func(task.Task) {})()
		time.Sleep(time.Hour)
		for i := range 300 {
			end(t, m, task.Spec{ID: fmt.Sprint(i), IdempotencyKey: ""})
		}
		mustSubmit(t, m, task.Spec{ID: "dead", MaxAttempts: 1})
		if _, err := m.Fail(t.Context(), claimed(t, m, "dead", alice), "no"); err != nil {
			t.Fatal(err)
		}
		mustSubmit(t, m, task.Spec{ID: "pending"})
		time.Sleep(task.DefaultRetention - time.Hour - time.Second)
		synctest.Wait()
		if n := kept(t, m); n != 303 {
			t.Errorf("%d tasks are kept, want all 303", n)
		}
		time.Sleep(time.Minute)
		if n := kept(t, m); n != 302 {
			t.Errorf("%d tasks are kept, want 302", n)
		}
		r.reset()
		time.Sleep(time.Hour + time.Minute)
		if n := kept(t, m); n != 2 {
			t.Errorf("%d tasks are kept, want the dead letter and the one that is pending", n)
		}
		r.want(t) // deletions are nobody's business
		if n := m.Stats().Pruned + other.Stats().Pruned; n != 301 {
			t.Errorf("%d tasks were deleted, want 301, each once", n)
		}
		time.Sleep(10 * 365 * 24 * time.Hour)
		if k := got(t, m, "dead"); !k.DeadLetter {
			t.Errorf("the dead letter is %+v", k)
		}
		if k, err := m.Requeue(t.Context(), "dead", submitter); err != nil || k.Status != task.Pending {
			t.Errorf("Requeue gives %+v, %v", k, err)
		}
	})
}

// What is requeued is not deleted, though its end was noted.
func TestRequeuedTaskIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := newManager(t, s, func(c *task.Config) { c.DeadRetention = time.Hour })
		defer m.Attach(func(task.Task) {})()
		for _, id := range []string{"back", "gone"} {
			mustSubmit(t, m, task.Spec{ID: id, MaxAttempts: 1})
			if _, err := m.Fail(t.Context(), claimed(t, m, id, alice), "no"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Requeue(t.Context(), "back", submitter); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if k := got(t, m, "back"); k.Status != task.Pending {
			t.Errorf("%+v", k)
		}
		_, err := m.Get(t.Context(), "gone")
		wantIs(t, err, task.ErrNotFound)
	})
}

func TestNothingIsDeletedWhereTasksAreKeptForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t), func(c *task.Config) { c.Retention = task.Forever })
		defer m.Attach(func(task.Task) {})()
		end(t, m, task.Spec{ID: "a"})
		time.Sleep(100 * 365 * 24 * time.Hour)
		got(t, m, "a")
	})
}

// A key protects for as long as its task is kept; then the same submission is a new task.
func TestKeyIsForgottenWithItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t), func(c *task.Config) { c.Retention = time.Hour })
		defer m.Attach(func(task.Task) {})()
		spec := task.Spec{IdempotencyKey: "k"}
		end(t, m, spec)
		time.Sleep(59 * time.Minute)
		if k := mustSubmit(t, m, spec); !k.Existed {
			t.Errorf("%+v", k)
		}
		time.Sleep(2 * time.Minute)
		if k := mustSubmit(t, m, spec); k.Existed || k.Status != task.Pending {
			t.Errorf("%+v", k)
		}
	})
}

func TestDeletingRidesOutStoreFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaultyStore(newStore(t))
		m := newManager(t, s, func(c *task.Config) { c.Retention = time.Hour })
		defer m.Attach(func(task.Task) {})()
		end(t, m, task.Spec{ID: "a"})
		s.breakWith(errFault)
		time.Sleep(2 * time.Hour)
		if err := m.Healthy(); err == nil {
			t.Error("a manager without store is healthy")
		}
		s.repair()
		time.Sleep(time.Minute)
		_, err := m.Get(t.Context(), "a")
		wantIs(t, err, task.ErrNotFound)
		if err := m.Healthy(); err != nil {
			t.Error(err)
		}
	})
}
