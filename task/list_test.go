package task_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

func TestListByFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		everything := task.Profile{
			Agent: alice.Agent, Capabilities: []string{"a", "b"}, Pools: []string{"p"}, Topics: []message.Pattern{message.MustPattern(">")},
		}
		begin := time.Now()
		mustSubmit(t, m, task.Spec{ID: "done", Kind: "sum", Capabilities: []string{"a", "b"}})
		if _, err := m.Report(t.Context(), claimed(t, m, "done", everything), nil, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		mustSubmit(t, m, task.Spec{ID: "dead", Pool: "p", MaxAttempts: 1})
		if _, err := m.Fail(t.Context(), claimed(t, m, "dead", everything), ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		mustSubmit(t, m, task.Spec{ID: "held", Topic: message.MustTopic("orders.eu")})
		claimed(t, m, "held", everything)
		mustSubmit(t, m, task.Spec{ID: "open", Capabilities: []string{"a"}})
		if _, err := m.Submit(t.Context(), task.Spec{ID: "theirs", Kind: "work", Submitter: bob.Agent}); err != nil {
			t.Fatal(err)
		}
		orders := []message.Pattern{message.MustPattern("orders.*")}
		for name, c := range map[string]struct {
			filter task.Filter
			want   string
		}{
			"all":        {task.Filter{}, "dead done held open theirs"},
			"pending":    {task.Filter{Statuses: []task.Status{task.Pending}}, "open theirs"},
			"ended":      {task.Filter{Statuses: []task.Status{task.Completed, task.Failed}}, "dead done"},
			"dead":       {task.Filter{DeadLetters: true}, "dead"},
			"kind":       {task.Filter{Kinds: []string{"sum", "x"}}, "done"},
			"submitter":  {task.Filter{Submitter: bob.Agent}, "theirs"},
			"claimant":   {task.Filter{Claimant: alice.Agent}, "dead done held"},
			"pool":       {task.Filter{Pool: "p"}, "dead"},
			"topic":      {task.Filter{Topics: orders}, "held"},
			"capability": {task.Filter{Capabilities: []string{"a"}}, "done open"},
			"both":       {task.Filter{Capabilities: []string{"b", "a"}}, "done"},
			"created":    {task.Filter{CreatedFrom: begin.Add(time.Hour), CreatedBefore: begin.Add(2 * time.Hour)}, "dead"},
			"updated":    {task.Filter{UpdatedFrom: begin, UpdatedBefore: begin.Add(time.Hour)}, "done"},
			"none":       {task.Filter{Kinds: []string{"sum"}, Submitter: bob.Agent}, ""},
		} {
			page, err := m.List(t.Context(), c.filter, 0, "")
			if got := strings.Join(idsOf(page.Tasks), " "); err != nil || got != c.want || page.Next != "" {
				t.Errorf("%s: %q, %v, %q, want %q", name, got, err, page.Next, c.want)
			}
			for _, k := range page.Tasks {
				if !c.filter.Matches(k) {
					t.Errorf("%s does not match %s", name, k.ID)
				}
			}
		}
	})
}

// plainStore can do nothing but what every store can.
type plainStore struct{ store.Store }

func TestPagesHaveEachTaskOnce(t *testing.T) {
	s := newStore(t)
	for i := range 250 {
		mustSubmit(t, newManager(t, s), task.Spec{ID: fmt.Sprintf("%03d/x", i), Priority: i % 2})
	}
	for name, s := range map[string]store.Store{"seeker": s, "plain": plainStore{s}} {
		m := newManager(t, s)
		var ids []string
		pages := 0
		for next := ""; pages == 0 || next != ""; pages++ {
			page, err := m.List(t.Context(), task.Filter{}, 30, next)
			if err != nil {
				t.Fatal(err)
			}
			if pages > 0 && page.Next == next {
				t.Fatal("the pages do not come to an end")
			}
			ids, next = append(ids, idsOf(page.Tasks)...), page.Next
		}
		if pages != 9 || len(ids) != 250 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 250 {
			t.Errorf("%s: %d tasks on %d pages", name, len(ids), pages)
		}
		if page, err := m.List(t.Context(), task.Filter{}, 1<<30, ""); err != nil || len(page.Tasks) != 250 {
			t.Errorf("%d tasks, %v", len(page.Tasks), err)
		}
	}
}

// countingStore counts what is read of it, and can begin anywhere.
type countingStore struct {
	store.Store
	reads int
}

func (c *countingStore) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for e, err := range store.ListAfter(ctx, c.Store, prefix, after) {
			if c.reads++; !yield(e, err) {
				return
			}
		}
	}
}

// A page costs a bounded number of reads, whatever there is and however little of it is meant.
func TestPageReadsAreBounded(t *testing.T) {
	s := &countingStore{Store: newStore(t)}
	m := newManager(t, s)
	const n = 12000
	for i := range n { // of no use, but to be looked at
		if _, err := s.Put(t.Context(), fmt.Sprintf("task/%05d", i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	mustSubmit(t, m, task.Spec{ID: "last", Kind: "rare"})
	rare := task.Filter{Kinds: []string{"rare"}}
	first, err := m.List(t.Context(), rare, 0, "")
	if err != nil || len(first.Tasks) != 0 || first.Next == "" || s.reads > 10001 {
		t.Errorf("the first page has %d tasks, %v, next %q, after %d reads", len(first.Tasks), err, first.Next, s.reads)
	}
	s.reads = 0
	second, err := m.List(t.Context(), rare, 0, first.Next)
	if err != nil || len(second.Tasks) != 1 || second.Next != "" || s.reads > n-10000+1 {
		t.Errorf("the second page has %d tasks, %v, next %q, after %d reads", len(second.Tasks), err, second.Next, s.reads)
	}
}

func TestForgedCursorsAreRefused(t *testing.T) {
	m := newManager(t, newStore(t))
	for _, after := range []string{"x", "!!", "b3RoZXIveA", "dGFzay8", "dGFzay8uLi94"} { // "other/x", "task/", "task/../x"
		_, err := m.List(t.Context(), task.Filter{}, 1, after)
		wantIs(t, err, task.ErrInvalid)
	}
	_, err := m.List(t.Context(), task.Filter{}, -1, "")
	wantIs(t, err, task.ErrInvalid)
}

func TestUnreadableRecordsAreLeftOutOfLists(t *testing.T) {
	s := newStore(t)
	m := newManager(t, s)
	mustSubmit(t, m, task.Spec{ID: "a"})
	for key, value := range map[string]string{"task/b": "\x83\x02\xa0\xa0", "task/c": "junk", "task/d/e": ""} {
		if _, err := s.Put(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		page, err := m.List(t.Context(), task.Filter{}, 10, "")
		if err != nil || len(page.Tasks) != 1 {
			t.Errorf("List gives %v, %v", idsOf(page.Tasks), err)
		}
	}
	if n := m.Stats().Corrupt; n != 3 {
		t.Errorf("%d records are corrupt, want 3", n)
	}
	_, err := m.Get(t.Context(), "b")
	wantIs(t, err, task.ErrRecord)
	wantText(t, err, "version 2 is newer than 1")
}

func TestWatchTellsAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		mustSubmit(t, m, task.Spec{ID: "a"})
		mustSubmit(t, m, task.Spec{ID: "other", Kind: "rest"})
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		var last store.Revision
		follow := func(ctx context.Context, after store.Revision) (err error) {
			for c, e := range m.Watch(ctx, task.Filter{Kinds: []string{"work"}}, after) {
				if e != nil {
					return e
				}
				last = c.Revision
				told = append(told, fmt.Sprintf("%s %s gone=%t synced=%t", c.Task.ID, c.Task.Status, c.Gone, c.Synced))
			}
			return nil
		}
		want := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
			told = nil
		}
		done := make(chan error)
		go func() { done <- follow(ctx, 0) }()
		want("a pending gone=false synced=false", " status(0) gone=false synced=true")
		c := claimed(t, m, "a", alice)
		claimed(t, m, "other", alice)
		want("a assigned gone=false synced=false")
		cancel()
		wantIs(t, <-done, context.Canceled)

		if _, err := m.Report(t.Context(), c, nil, ""); err != nil {
			t.Fatal(err)
		}
		mustSubmit(t, m, task.Spec{ID: "b"})
		ctx, cancel = context.WithCancel(t.Context())
		go func() { done <- follow(ctx, last) }()
		want("a completed gone=false synced=false", "b pending gone=false synced=false")
		cancel()
		<-done
	})
}

func TestWatchSaysThatItMissedChanges(t *testing.T) {
	m := newManager(t, newStore(t))
	for _, err := range m.Watch(t.Context(), task.Filter{}, 1<<40) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("got %v", err)
		}
	}
}
