package task_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

func TestRouting(t *testing.T) {
	m := newManager(t, newStore(t))
	specs := map[string]task.Spec{
		"any":         {},
		"sewing":      {Kind: "sew"},
		"gpu":         {Capabilities: []string{"gpu"}},
		"gpu+ram":     {Capabilities: []string{"ram", "gpu"}},
		"painters":    {Pool: "painters"},
		"orders":      {Topic: message.MustTopic("orders.eu")},
		"orders2":     {Topic: message.MustTopic("orders.eu@2?tier=gold")},
		"gpu@orders":  {Capabilities: []string{"gpu"}, Topic: message.MustTopic("orders.eu")},
		"all/of.them": {Capabilities: []string{"gpu"}, Topic: message.MustTopic("orders.eu"), Pool: "painters"},
	}
	for _, id := range slices.Sorted(maps.Keys(specs)) {
		spec := specs[id]
		spec.ID = id
		mustSubmit(t, m, spec)
	}
	patterns := func(texts ...string) (all []message.Pattern) {
		for _, text := range texts {
			all = append(all, message.MustPattern(text))
		}
		return all
	}
	tests := []struct {
		profile task.Profile
		want    []string
	}{
		{task.Profile{}, []string{"any", "sewing"}},
		{task.Profile{Kinds: []string{"sew", "knit"}, Capabilities: []string{"gpu"}}, []string{"sewing"}},
		{task.Profile{Kinds: []string{"knit"}}, nil},
		{task.Profile{Capabilities: []string{"gpu"}}, []string{"any", "gpu", "sewing"}},
		{task.Profile{Capabilities: []string{"ram"}}, []string{"any", "sewing"}},
		{task.Profile{Capabilities: []string{"ram", "cpu", "gpu"}}, []string{"any", "gpu", "gpu+ram", "sewing"}},
		{task.Profile{Pools: []string{"poets", "painters"}}, []string{"any", "painters", "sewing"}},
		{task.Profile{Topics: patterns("orders.eu")}, []string{"any", "orders", "orders2", "sewing"}},
		{task.Profile{Topics: patterns("orders.eu@2")}, []string{"any", "orders2", "sewing"}},
		{task.Profile{Topics: patterns("orders.*")}, []string{"any", "orders", "orders2", "sewing"}},
		{task.Profile{Topics: patterns("*.eu?tier=gold", "orders.eu@1")}, []string{"any", "orders2", "sewing"}},
		{task.Profile{Topics: patterns(">", "orders.eu")}, []string{"any", "orders", "orders2", "sewing"}},
		{task.Profile{Topics: patterns("orders")}, []string{"any", "sewing"}},
		{task.Profile{Topics: make([]message.Pattern, 1)}, []string{"any", "sewing"}},
		{task.Profile{Capabilities: []string{"gpu"}, Topics: patterns(">")}, []string{"any", "gpu", "gpu@orders", "orders", "orders2", "sewing"}},
		{task.Profile{Capabilities: []string{"gpu", "ram"}, Topics: patterns(">"), Pools: []string{"painters"}}, slices.Sorted(maps.Keys(specs))},
	}
	for _, attached := range []bool{false, true} {
		if attached {
			defer m.Attach(func(task.Task) {})()
		}
		for _, test := range tests {
			got := idsOf(m.Visible(test.profile, 100))
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("attached=%t: %+v sees %q, want %q", attached, test.profile, got, test.want)
			}
			test.profile.Agent = alice.Agent
			for id, spec := range specs {
				sees := slices.Contains(test.want, id)
				if test.profile.Sees(spec) != sees {
					t.Errorf("%+v sees %s: %t", test.profile, id, !sees)
				}
				if !sees {
					_, _, err := m.Claim(t.Context(), id, test.profile)
					wantIs(t, err, task.ErrNotRouted)
				}
			}
		}
	}
}

func idsOf(tasks []task.Task) []string {
	var ids []string
	for _, t := range tasks {
		ids = append(ids, t.ID)
	}
	return ids
}

func TestVisibleOrder(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := newManager(t, newStore(t), func(c *task.Config) { c.Now = func() time.Time { return now } })
	submit := func(id string, priority int, capabilities ...string) {
		mustSubmit(t, m, task.Spec{ID: id, Priority: priority, Capabilities: capabilities})
	}
	submit("b", 0)
	submit("a", 0, "x") // at the same instant: by ID
	now = now.Add(-time.Hour)
	submit("late", -1)
	submit("lowest", -1<<63)
	submit("old", 0, "x", "y")
	submit("highest", 1<<63-1, "y")
	submit("high", 7)
	profile := task.Profile{Agent: alice.Agent, Capabilities: []string{"x", "y", "x"}}
	want := []string{"highest", "high", "old", "a", "b", "late", "lowest"}
	for _, attached := range []bool{false, true} {
		if attached {
			defer m.Attach(func(task.Task) {})()
		}
		for _, limit := range []int{-1, 0, 1, 4, 7, 100} {
			got := idsOf(m.Visible(profile, limit))
			if !slices.Equal(got, want[:max(0, min(limit, len(want)))]) {
				t.Errorf("attached=%t: Visible of %d gives %q", attached, limit, got)
			}
		}
	}
}

// What is visible agrees with a plain filter and sort over all tasks, through any history.
func TestVisibleMatchesAFilter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var now atomic.Int64
		clock := func(c *task.Config) { c.Now = func() time.Time { return time.UnixMilli(now.Load()) } }
		s := newStore(t)
		attached, plain := newManager(t, s, clock), newManager(t, s, clock)
		defer attached.Attach(func(task.Task) {})()
		model := map[string]task.Task{}
		capabilities := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID)
		pick := func(r *rapid.T, s task.Status) string {
			ids := []string{}
			for id, t := range model {
				if t.Status == s {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 {
				r.Skip("none is", s)
			}
			slices.Sort(ids)
			return rapid.SampledFrom(ids).Draw(r, "id")
		}
		everything := task.Profile{Agent: alice.Agent, Capabilities: []string{"a", "b", "c"}, Pools: []string{"p"}}
		r.Repeat(map[string]func(*rapid.T){
			"submit": func(r *rapid.T) {
				spec := task.Spec{Capabilities: capabilities.Draw(r, "capabilities"), Priority: rapid.IntRange(0, 2).Draw(r, "priority")}
				spec.Pool = rapid.SampledFrom([]string{"", "p"}).Draw(r, "pool")
				for range rapid.IntRange(1, 5).Draw(r, "n") {
					spec.ID = fmt.Sprint("t", len(model)) // reproducible
					model[spec.ID] = mustSubmit(t, attached, spec)
				}
			},
			"claim": func(r *rapid.T) {
				id := pick(r, task.Pending)
				_, got, err := attached.Claim(t.Context(), id, everything)
				if err != nil {
					r.Fatal(err)
				}
				model[id] = got
			},
			"cancel": func(r *rapid.T) {
				id := pick(r, task.Pending)
				got, err := attached.Cancel(t.Context(), id, submitter)
				if err != nil {
					r.Fatal(err)
				}
				model[id] = got
			},
			"release": func(r *rapid.T) {
				held := model[pick(r, task.Assigned)]
				got, err := attached.Release(t.Context(), task.Claim{TaskID: held.ID, Agent: held.Claimant, Epoch: held.Epoch})
				if err != nil {
					r.Fatal(err)
				}
				model[held.ID] = got
			},
			"wait": func(*rapid.T) { now.Add(1) },
			"": func(r *rapid.T) {
				p := task.Profile{Capabilities: capabilities.Draw(r, "capabilities"), Pools: []string{"p"}}
				limit := rapid.SampledFrom([]int{1, 10, 1000}).Draw(r, "limit")
				want := filtered(model, p, limit)
				if got := idsOf(attached.Visible(p, limit)); !slices.Equal(got, want) {
					r.Fatalf("attached: %+v sees %q, want %q", p, got, want)
				}
				if got := idsOf(plain.Visible(p, limit)); !slices.Equal(got, want) {
					r.Fatalf("not attached: %+v sees %q, want %q", p, got, want)
				}
			},
		})
	})
}

func filtered(model map[string]task.Task, p task.Profile, limit int) []string {
	var tasks []task.Task
	for _, t := range model {
		if t.Status == task.Pending && p.Sees(t.Spec) {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b task.Task) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return idsOf(tasks[:min(limit, len(tasks))])
}

func TestMaxPending(t *testing.T) {
	m := newManager(t, newStore(t), func(c *task.Config) { c.MaxPending = 3 })
	detach := m.Attach(func(task.Task) {})
	for i := range 3 {
		mustSubmit(t, m, task.Spec{ID: fmt.Sprint(i)})
	}
	_, err := m.Submit(t.Context(), task.Spec{ID: "3", Kind: "work", Submitter: submitter})
	wantIs(t, err, task.ErrFull)
	if _, _, err := m.Claim(t.Context(), "1", alice); err != nil {
		t.Fatal(err)
	}
	mustSubmit(t, m, task.Spec{ID: "3"})
	detach()
	mustSubmit(t, m, task.Spec{ID: "4"}) // nobody counts
}
