package task_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

func TestSubmittingAgainWithTheSameKey(t *testing.T) {
	for _, attached := range []bool{false, true} {
		s := newStore(t)
		m := newManager(t, s)
		if attached {
			defer m.Attach(func(task.Task) {})()
		}
		deadline := time.Now().Add(time.Hour)
		spec := func() task.Spec {
			return task.Spec{
				Kind: "work", IdempotencyKey: "order/7", Submitter: submitter, Params: json.RawMessage(`{"a":1}`),
				Capabilities: []string{"b", "a"}, Deadline: deadline,
			}
		}
		first, err := m.Submit(t.Context(), spec())
		if err != nil || first.Existed || first.ID != task.IDForKey(submitter, "order/7") {
			t.Fatalf("Submit gives %+v, %v", first, err)
		}
		restarted := newManager(t, s, func(c *task.Config) { c.DefaultClaimTTL = time.Hour })
		for _, m := range []*task.Manager{m, restarted} {
			again, err := m.Submit(t.Context(), spec())
			if err != nil || !again.Existed || again.Revision != first.Revision {
				t.Errorf("the second Submit gives %+v, %v", again, err)
			}
		}
		for name, change := range map[string]func(*task.Spec){
			"params":   func(s *task.Spec) { s.Params = json.RawMessage(`{"a":2}`) },
			"kind":     func(s *task.Spec) { s.Kind = "other" },
			"priority": func(s *task.Spec) { s.Priority = 1 },
			"attempts": func(s *task.Spec) { s.MaxAttempts = 2 },
			"deadline": func(s *task.Spec) { s.Deadline = deadline.Add(1) },
			"TTL":      func(s *task.Spec) { s.ClaimTTL = time.Hour },
		} {
			other := spec()
			change(&other)
			if _, err := m.Submit(t.Context(), other); err == nil {
				t.Errorf("other %s under the same key is taken", name)
			} else {
				wantIs(t, err, task.ErrExists)
			}
		}
		if _, err := m.Report(t.Context(), claimed(t, m, first.ID, task.Profile{Agent: alice.Agent, Capabilities: []string{"a", "b"}}), []byte("r"), ""); err != nil {
			t.Fatal(err)
		}
		ended, err := m.Submit(t.Context(), spec())
		if err != nil || !ended.Existed || string(ended.Result) != "r" {
			t.Errorf("Submit after the end gives %+v, %v", ended, err)
		}
		if n := m.Stats().Submitted; n != 1 {
			t.Errorf("%d tasks were submitted", n)
		}
	}
}

// Keys of one agent mean nothing to another, so nobody takes anybody's place.
func TestKeyOfAnotherSubmitterIsAnother(t *testing.T) {
	m := newManager(t, newStore(t))
	mine := task.Spec{Kind: "work", IdempotencyKey: "k", Submitter: submitter}
	theirs := mine
	theirs.Submitter = alice.Agent
	for _, s := range []task.Spec{mine, theirs} {
		if k, err := m.Submit(t.Context(), s); err != nil || k.Existed {
			t.Errorf("Submit gives %+v, %v", k, err)
		}
	}
	theirs.ID = task.IDForKey(submitter, "other") // to be there first
	theirs.IdempotencyKey = "x"
	_, err := m.Submit(t.Context(), theirs)
	wantIs(t, err, task.ErrInvalid)
	theirs.IdempotencyKey = ""
	_, err = m.Submit(t.Context(), theirs)
	wantIs(t, err, task.ErrInvalid)
	mine.IdempotencyKey = "other"
	if _, err = m.Submit(t.Context(), mine); err != nil {
		t.Error(err)
	}
}

func TestOfManySubmissionsWithOneKeyOneIsStored(t *testing.T) {
	s := newStore(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	ids, fresh := map[string]bool{}, 0
	for range 16 {
		m := newManager(t, s)
		all.Go(func() {
			k, err := m.Submit(t.Context(), task.Spec{Kind: "work", IdempotencyKey: "k", Submitter: submitter})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[k.ID] = true
			if !k.Existed {
				fresh++
			}
		})
	}
	all.Wait()
	if len(ids) != 1 || fresh != 1 {
		t.Errorf("16 submissions made %d tasks, %d of them new", len(ids), fresh)
	}
}

// A full manager or store still knows what it has taken in.
func TestKeyIsKnownWhenThereIsNoRoom(t *testing.T) {
	s, err := memory.New(memory.Config{MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := newManager(t, s, func(c *task.Config) { c.MaxPending = 1 })
	spec := task.Spec{Kind: "work", IdempotencyKey: "k", Submitter: submitter}
	if _, err := m.Submit(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if k, err := m.Submit(t.Context(), spec); err != nil || !k.Existed {
			t.Errorf("Submit gives %+v, %v", k, err)
		}
		spec.IdempotencyKey = "other"
		if _, err := m.Submit(t.Context(), spec); err == nil {
			t.Error("there is room")
		}
		spec.IdempotencyKey = "k"
		defer m.Attach(func(task.Task) {})()
	}
}

func TestNewFieldsAreChecked(t *testing.T) {
	m := newManager(t, newStore(t))
	for want, spoil := range map[string]func(*task.Spec){
		"MaxAttempts is -1":    func(s *task.Spec) { s.MaxAttempts = -1 },
		"MaxAttempts is 1001":  func(s *task.Spec) { s.MaxAttempts = 1001 },
		"Backoff.Base is -1ns": func(s *task.Spec) { s.Backoff.Base = -1 },
		"Backoff.Max is 1ns":   func(s *task.Spec) { s.Backoff = task.Backoff{Base: 2, Max: 1} },
		"Backoff.Max is 16":    func(s *task.Spec) { s.Backoff.Max = task.MaxBackoff + 1 },
		"NotBefore 1969":       func(s *task.Spec) { s.NotBefore = time.Unix(-1, 0) },
		"NotBefore 2999":       func(s *task.Spec) { s.NotBefore = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC) },
		"is not before Deadline": func(s *task.Spec) {
			s.Deadline = time.Now().Add(time.Hour)
			s.NotBefore = s.Deadline
		},
		`IdempotencyKey "a b"`: func(s *task.Spec) { s.IdempotencyKey = "a b" },
		"leave it empty":       func(s *task.Spec) { s.ID, s.IdempotencyKey = "mine", "k" },
	} {
		s := task.Spec{Kind: "work", Submitter: identity.ID{1}}
		spoil(&s)
		_, err := m.Submit(t.Context(), s)
		wantIs(t, err, task.ErrInvalid)
		wantText(t, err, want)
	}
}
