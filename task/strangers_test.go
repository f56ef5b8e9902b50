package task_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// TestTasksOfAgentsThatBecomeKnownLaterAreShownThen opens a store before those are known who have tasks on it,
// as a program does that starts.
func TestTasksOfAgentsThatBecomeKnownLaterAreShownThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		before := newSigned(t, s)
		for _, id := range []string{"pending", "claimed", "done", "gone"} {
			submitted(t, before, task.Spec{ID: id})
		}
		held := claimedBy(t, before, "claimed", ben)

		registry := identity.NewRegistry(0)
		v, err := task.NewVerifier(registry, network)
		if err != nil {
			t.Fatal(err)
		}
		m := newManager(t, s, func(c *task.Config) { c.UnsignedUnsafe, c.Verifier = false, v })
		var mu sync.Mutex
		told := map[string]task.Status{}
		defer m.Attach(func(t task.Task) {
			mu.Lock()
			defer mu.Unlock()
			told[t.ID] = t.Status
		})()
		if _, err := before.End(t.Context(), done(t, claimedBy(t, before, "done", ben))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if ids := idsOf(m.Visible(profileOf(cleo), 10)); len(ids) != 0 || len(told) != 0 {
			t.Errorf("strangers' tasks are shown: %v, %v", ids, told)
		}
		if _, err := m.Get(t.Context(), "pending"); !errors.Is(err, task.ErrRecord) || !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Get gives %v", err)
		}
		e, err := s.Get(t.Context(), store.Key("task", "gone"))
		if err == nil {
			err = s.Delete(t.Context(), e.Key, e.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}

		if err := registry.Register(ann.ID(), ann.PublicKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if ids := idsOf(m.Visible(profileOf(cleo), 10)); len(ids) != 2 || ids[0] != "claimed" || ids[1] != "pending" { // the claim's 30 s are over
			t.Errorf("visible are %v", ids)
		}
		if err := registry.Register(ben.ID(), ben.PublicKey()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		if len(told) != 3 || told["pending"] != task.Pending || told["claimed"] != task.Pending || told["done"] != task.Completed {
			t.Errorf("told of %v", told)
		}
		mu.Unlock()
		if _, err := m.End(t.Context(), done(t, held)); !errors.Is(err, task.ErrClaimLost) {
			t.Errorf("%v", err)
		}
		if ids := idsOf(m.Visible(profileOf(cleo), 10)); len(ids) != 2 {
			t.Errorf("visible are %v", ids)
		}
		if n := m.Stats().Corrupt; n != 6 { // of one that was being done, all three revisions
			t.Errorf("%d records count as skipped", n)
		}
		if _, err := m.End(t.Context(), done(t, claimedBy(t, m, "pending", ben))); err != nil {
			t.Error(err)
		}
	})
}

// TestSubmitterLearnsOfARecordThatIsSpoilt: it would wait for ever.
func TestSubmitterLearnsOfARecordThatIsSpoilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := newSigned(t, s)
		var last task.Task
		defer m.Attach(func(t task.Task) { last = t })()
		submitted(t, m, task.Spec{ID: "t"})
		c := claimedBy(t, m, "t", ben)
		e, err := s.Get(t.Context(), store.Key("task", "t"))
		if err != nil {
			t.Fatal(err)
		}
		r := takeApart(t, e.Value)
		r.submission[subParams] = []byte(`{"n":9}`)
		if _, err := s.Put(t.Context(), e.Key, r.bytes(t), e.Revision); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if last.ID != "t" || last.Status != task.Failed || last.Error == "" || last.Submitter != ann.ID() || last.ResultProof != nil {
			t.Errorf("told of %+v", last)
		}
		if _, err := m.End(t.Context(), done(t, c)); !errors.Is(err, task.ErrForged) {
			t.Errorf("it can be ended: %v", err)
		}
		if now, err := s.Get(t.Context(), e.Key); err != nil || string(now.Value) != string(r.bytes(t)) {
			t.Errorf("the record has been written over: %v", err)
		}
	})
}
