package remote_test

import (
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

// TestAttemptsGoOnAcrossProcesses has a worker elsewhere fail, whose submitter elsewhere gives the task
// another round.
func TestAttemptsGoOnAcrossProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		time.Sleep(time.Second)
		ctx := t.Context()
		boss.mustSubmit(t, task.Spec{ID: "t", MaxAttempts: 2, Backoff: task.Backoff{Base: time.Minute}, NotBefore: time.Now().Add(10 * time.Minute)})
		if _, _, err := worker.Claim(ctx, "t", worker.profile); err == nil {
			t.Error("the task was claimed before its time")
		}
		if told := work.tell(); len(told) != 0 {
			t.Errorf("told %+v before its time", told)
		}
		time.Sleep(10*time.Minute + time.Second)
		if told := work.tell(); len(told) != 1 || told[0].MaxAttempts != 2 || told[0].Backoff.Base != time.Minute {
			t.Fatalf("told %+v in time", told)
		}
		first := worker.mustClaim(t, "t")
		for range 2 { // the answer was lost
			failed, err := worker.Fail(ctx, first, "bad day")
			if err != nil || failed.Status != task.Pending || failed.Attempts != 1 || failed.Error != "bad day" || failed.ReadyAt.Before(time.Now()) {
				t.Errorf("Fail gives %+v, %v", failed, err)
			}
		}
		work.tell()
		time.Sleep(time.Minute + time.Second)
		if told := work.tell(); len(told) != 1 || told[0].Attempts != 1 {
			t.Errorf("told %+v after the pause", told)
		}
		second := worker.mustClaim(t, "t")
		_, err := worker.Fail(ctx, first, "bad day")
		expectErr(t, "the failure of an attempt before the last", err, task.ErrClaimLost)
		for range 2 {
			dead, err := worker.Fail(ctx, second, "worse day")
			if err != nil || !dead.DeadLetter || dead.Attempts != 2 {
				t.Errorf("the last Fail gives %+v, %v", dead, err)
			}
		}
		if told := ended(&ends); len(told) != 1 || !told[0].DeadLetter || told[0].Error != "worse day" {
			t.Fatalf("the submitter was told %+v", told)
		}
		_, err = worker.Requeue(ctx, "t", bob.ID())
		expectErr(t, "requeueing by a third", err, task.ErrNotSubmitter)
		_, err = worker.Requeue(ctx, "t", alice.ID())
		expectErr(t, "requeueing in another's name", err, task.ErrNotSubmitter)
		for range 2 {
			again, err := boss.Requeue(ctx, "t", alice.ID())
			if err != nil || again.Status != task.Pending || again.Epoch != 2 {
				t.Errorf("Requeue gives %+v, %v", again, err)
			}
		}
		third := worker.mustClaim(t, "t")
		for range 2 {
			failed, err := worker.FailPermanently(ctx, third, "never")
			if err != nil || failed.Status != task.Failed || failed.DeadLetter {
				t.Errorf("FailPermanently gives %+v, %v", failed, err)
			}
		}
		time.Sleep(time.Second)
		if told := ended(&ends); len(told) != 1 || told[0].Error != "never" {
			t.Errorf("the submitter was told %+v after it had requeued the task", told)
		}
		_, err = boss.Requeue(ctx, "t", alice.ID())
		expectErr(t, "requeueing what is no dead letter", err, task.ErrNotDead)
	})
}

func TestKeysOfClientsAreTheirOwn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, other := s.client(alice), s.client(carol)
		spec := task.Spec{Kind: "k", IdempotencyKey: "order/7", Deadline: time.Now().Add(time.Hour)}
		first := boss.mustSubmit(t, spec)
		if first.Existed || first.ID != task.IDForKey(alice.ID(), "order/7") || first.IdempotencyKey != "order/7" {
			t.Errorf("submitted %+v", first)
		}
		time.Sleep(time.Second)
		_, err := boss.Submit(t.Context(), task.Spec{Kind: "other", IdempotencyKey: "order/7"})
		expectErr(t, "other content under the same key", err, task.ErrExists)
		boss.stop()
		restarted := s.client(alice) // which remembers nothing
		for range 2 {
			if again := restarted.mustSubmit(t, spec); !again.Existed || again.Revision != first.Revision {
				t.Errorf("submitted again: %+v", again)
			}
		}
		if theirs := other.mustSubmit(t, spec); theirs.Existed || theirs.ID == first.ID {
			t.Errorf("another agent's: %+v", theirs)
		}
		spec.ID = first.ID
		_, err = other.Submit(t.Context(), spec)
		expectErr(t, "another's place under one's own key", err, task.ErrInvalid)
		spec.IdempotencyKey = ""
		_, err = other.Submit(t.Context(), spec)
		expectErr(t, "another's place without key", err, task.ErrInvalid)
	})
}

// TestWorkersMayNotRequeue holds requeueing to those who may submit.
func TestWorkersMayNotRequeue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.stop()
		all := remote.AllowAll(bob.ID())
		all.Submit = false
		s.policy = func(id identity.ID) remote.Rights {
			if id == bob.ID() {
				return all
			}
			return remote.AllowAll(id)
		}
		s.open()
		worker := s.client(bob)
		_, err := worker.Requeue(t.Context(), "t", bob.ID())
		expectErr(t, "requeueing without the right to", err, remote.ErrNotAllowed)
	})
}

// ended returns the ends of tasks among what was told.
func ended(r *recorder) (ends []task.Task) {
	for _, t := range r.tell() {
		if t.Status.Terminal() {
			ends = append(ends, t)
		}
	}
	return ends
}
