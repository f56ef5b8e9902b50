package task

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/store"
)

// indexModel is what an index is to say, by simpler means.
type indexModel struct {
	x     *index
	book  map[string]*record
	awake map[*record]bool // pending tasks that had to wait, and have been shown
	last  store.Revision
}

// next returns a record of a task that nobody has seen.
func (m *indexModel) next(t *rapid.T, id string) *record {
	m.last++
	spec := Spec{ID: id, Priority: rapid.IntRange(-1, 1).Draw(t, "priority")}
	if rapid.Bool().Draw(t, "capable") {
		spec.Capabilities = []string{"paint"}
	}
	r := &record{fixed: &fixed{spec: spec, created: rapid.Int64Range(1, 5).Draw(t, "created"), route: routeOf(&spec)}, revision: m.last}
	if old := m.book[id]; old != nil { // what is fixed stays
		r.fixed = old.fixed
	}
	switch rapid.IntRange(0, 4).Draw(t, "state") {
	case 0:
		r.status, r.ready = Pending, rapid.Int64Range(1, 20).Draw(t, "ready")
	case 1, 2:
		r.status = Pending
	case 3:
		r.status, r.expires = Assigned, rapid.Int64Range(1, 20).Draw(t, "expires")
	case 4:
		r.status = Completed
	}
	return r
}

func (m *indexModel) put(t *rapid.T, id string) {
	r := m.next(t, id)
	m.x.put(r)
	m.book[id] = r
}

// pending returns the tasks that can be claimed by whom, the first ones first.
func (m *indexModel) pending(p *Profile) (all []*record) {
	for _, r := range m.book {
		if r.status == Pending && (r.ready == 0 || m.awake[r]) && p.sees(&r.spec) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *record) int { return byRank(pendingRank(a), pendingRank(b)) })
	return all
}

// first returns the earliest of some times of the records; 0 if there is none.
func (m *indexModel) first(times ...func(*record) int64) int64 {
	first := int64(math.MaxInt64)
	for _, r := range m.book {
		for _, of := range times {
			if at := of(r); at != 0 {
				first = min(first, at)
			}
		}
	}
	if first == math.MaxInt64 {
		return 0
	}
	return first
}

func (m *indexModel) sleeps(r *record) int64 {
	if m.awake[r] {
		return 0
	}
	return r.ready
}

func (m *indexModel) check(t *rapid.T) {
	for _, p := range []*Profile{{}, {Capabilities: []string{"paint"}}} {
		if got, want := m.x.visible(p, math.MaxInt, 0), m.pending(p); !slices.Equal(got, want) {
			t.Fatalf("an agent with %q sees %d tasks where there are %d, or in another order", p.Capabilities, len(got), len(want))
		}
	}
	if got, want := m.x.firstDue(), m.first((*record).due, m.sleeps); got != want {
		t.Fatalf("the first thing is due at %d, want %d", got, want)
	}
	pending := 0
	for _, r := range m.book {
		if r.status == Pending {
			pending++
		}
	}
	if !m.x.holds(pending) || m.x.holds(pending+1) {
		t.Fatalf("it does not hold %d pending tasks", pending)
	}
	if most := m.x.book.moved.Load(); most != 0 {
		t.Fatalf("pages %b have moves that have not been taken in", most)
	}
}

// An index says what a book without rankings says, whatever came when, and however many moves were left to be taken in.
func TestIndexIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &indexModel{x: newIndex(), book: map[string]*record{}, awake: map[*record]bool{}}
		ids := make([]string, 400)
		for i := range ids {
			ids[i] = fmt.Sprint("task-", i)
		}
		anyID := rapid.SampledFrom(ids)
		t.Repeat(map[string]func(*rapid.T){
			"one": func(t *rapid.T) { m.put(t, anyID.Draw(t, "id")) },
			"many": func(t *rapid.T) {
				for i := rapid.IntRange(0, len(ids)-1).Draw(t, "from"); i < len(ids); i += rapid.IntRange(1, 9).Draw(t, "step") {
					m.put(t, ids[i])
				}
			},
			"one again and again": func(t *rapid.T) {
				id := anyID.Draw(t, "id")
				for range rapid.IntRange(1, 2*mostMoves).Draw(t, "times") {
					m.put(t, id)
				}
			},
			"while somebody looks": func(t *rapid.T) { // so that nothing is taken in
				m.x.mu.Lock()
				for range enoughMoves {
					m.put(t, anyID.Draw(t, "id"))
				}
				m.x.mu.Unlock()
			},
			"an old one": func(t *rapid.T) {
				if old := m.book[anyID.Draw(t, "id")]; old != nil {
					r := *old
					r.status, r.expires, r.ready = Pending, 0, 0
					m.x.put(&r)
				}
			},
			"restore": func(t *rapid.T) {
				id := anyID.Draw(t, "id")
				r := m.next(t, id)
				if m.x.restore(r) {
					if m.book[id] != nil {
						t.Fatal("a record was restored over one that was there")
					}
					m.book[id] = r
				}
			},
			"remove": func(t *rapid.T) {
				if r := m.book[anyID.Draw(t, "id")]; r != nil {
					m.x.remove(r)
					delete(m.book, r.spec.ID)
				}
			},
			"remove one that has been replaced": func(t *rapid.T) {
				if r := m.book[anyID.Draw(t, "id")]; r != nil {
					m.put(t, r.spec.ID)
					m.x.remove(r)
				}
			},
			"remove up to": func(t *rapid.T) {
				id := anyID.Draw(t, "id")
				at := store.Revision(rapid.Uint64Range(0, uint64(m.last)).Draw(t, "at"))
				if r := m.x.removeUpTo(id, at); r != nil {
					if r != m.book[id] || r.revision > at {
						t.Fatal("another record was removed")
					}
					delete(m.book, id)
				} else if r := m.book[id]; r != nil && r.revision <= at {
					t.Fatal("a record was not removed")
				}
			},
			"wake up": func(t *rapid.T) {
				now := rapid.Int64Range(1, 20).Draw(t, "now")
				for _, r := range m.x.waken(now) {
					if m.book[r.spec.ID] != r || r.ready > now || r.ready == 0 || m.awake[r] {
						t.Fatal("a record was shown that is not there, or does not wait")
					}
					m.awake[r] = true
				}
				if first := m.first(m.sleeps); first != 0 && first <= now {
					t.Fatalf("what is ready at %d was not shown at %d", first, now)
				}
			},
			"due": func(t *rapid.T) {
				now := rapid.Int64Range(1, 20).Draw(t, "now")
				due := m.x.dueBy(now)
				for _, r := range due {
					if m.book[r.spec.ID] != r {
						t.Fatal("something is due of a record that is not there")
					}
				}
				for _, r := range m.book {
					if at := r.due(); at != 0 && at <= now && !slices.Contains(due, r) {
						t.Fatalf("what is due at %d is missing at %d", at, now)
					}
				}
			},
			"look": m.check,
		})
		m.check(t)
	})
}

// Whoever has entered something sees it: callers that take tasks through their states while others look never miss a task
// that they have made pending, nor see one that they have claimed.
func TestIndexWithManyCallers(t *testing.T) {
	t.Parallel()
	x := newIndex()
	var left sync.Map
	var revision sync.Mutex
	last := store.Revision(0)
	put := func(r *record) {
		revision.Lock()
		last++
		r.revision = last
		revision.Unlock()
		x.put(r)
	}
	var all sync.WaitGroup
	for caller := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			profile := &Profile{Capabilities: []string{fmt.Sprint("caller-", caller)}}
			for i := range 400 {
				spec := Spec{ID: fmt.Sprintf("%d-%d", caller, i), Capabilities: profile.Capabilities}
				f := &fixed{spec: spec, created: int64(i), route: routeOf(&spec)}
				for claim := range 1 + random.IntN(2) {
					pending := &record{fixed: f, status: Pending}
					put(pending)
					if random.IntN(4) == 0 && !slices.Contains(x.visible(profile, math.MaxInt, 0), pending) {
						t.Errorf("task %s is not visible", spec.ID)
					}
					claimed := &record{fixed: f, status: Assigned, expires: int64(1000 + i + claim)}
					put(claimed)
					if random.IntN(4) == 0 {
						if first := x.firstDue(); first == 0 || first > claimed.expires {
							t.Errorf("a claim that expires at %d is not due before %d", claimed.expires, first)
						}
					}
				}
				switch random.IntN(3) {
				case 0:
					left.Store(spec.ID, true)
					put(&record{fixed: f, status: Pending})
				case 1:
					done := &record{fixed: f, status: Completed}
					put(done)
					x.remove(done)
				default:
					x.removeUpTo(spec.ID, math.MaxInt64)
				}
				if random.IntN(8) == 0 {
					runtime.Gosched()
				}
			}
			for _, r := range x.visible(profile, math.MaxInt, 0) {
				if _, ok := left.LoadAndDelete(r.spec.ID); !ok {
					t.Errorf("task %s is visible, and not pending", r.spec.ID)
				}
			}
		})
	}
	all.Wait()
	left.Range(func(id, _ any) bool {
		t.Errorf("task %s is pending, and not visible", id)
		return true
	})
	if x.due.size != 0 || x.firstDue() != 0 {
		t.Errorf("%d claims are due that have ended", x.due.size)
	}
}

// What nobody looks at stays within bounds: tasks that come and go, whoever ends them.
func TestMovesAreBounded(t *testing.T) {
	t.Parallel()
	x := newIndex()
	var all []*record
	for i := range 20000 {
		spec := Spec{ID: fmt.Sprint(i)}
		r := &record{fixed: &fixed{spec: spec, route: routeOf(&spec), created: int64(i)}, status: Pending, revision: store.Revision(i + 1)}
		x.put(r)
		all = append(all, r)
	}
	for _, r := range all {
		if x.removeUpTo(r.spec.ID, r.revision) != r {
			t.Fatalf("task %s is not there", r.spec.ID)
		}
	}
	for i := range x.book.pages {
		if moves := x.book.pages[i].moves; len(moves) >= enoughMoves || cap(moves) > mostMoves {
			t.Errorf("page %d has %d moves, and room for %d", i, len(moves), cap(moves))
		}
	}
	large := Spec{ID: "large"}
	x.put(&record{fixed: &fixed{spec: large, route: routeOf(&large), encoded: make([]byte, largeMove)}, status: Pending, revision: 1 << 20})
	if n := len(x.book.page("large").moves); n != 0 {
		t.Errorf("a large task waits among %d moves", n)
	}
}

// However a claim meets a look at what is due first, the alarm is early enough afterwards or about to be set anew. It was
// set for a claim that has been reported, and would go off late for the one that comes.
func TestAlarmMissesNoClaim(t *testing.T) {
	t.Parallel()
	m := &Manager{clock: newClock(nil, nil), earlier: make(chan struct{}, 1)}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	const early, middle, late = math.MaxInt64/2 + 1, math.MaxInt64/2 + 2, math.MaxInt64/2 + 3
	for range 6000 {
		reported := claimedUntil(1, early)
		m.index.Store(newIndex())
		m.learn(reported)
		m.setAlarm(timer)
		m.index.Load().remove(reported)
		m.learn(claimedUntil(2, late))
		select {
		case <-m.earlier:
		default:
		}
		var both sync.WaitGroup
		both.Go(func() { m.learn(claimedUntil(3, middle)) })
		both.Go(func() { m.setAlarm(timer) })
		both.Wait()
		if alarm := m.alarm.Load(); len(m.earlier) == 0 && (alarm == 0 || alarm > middle) {
			t.Fatalf("the alarm is %v after what is due", time.Duration(alarm-middle))
		}
	}
}

func claimedUntil(number int, at int64) *record {
	spec := Spec{ID: fmt.Sprint(number)}
	return &record{fixed: &fixed{spec: spec, route: routeOf(&spec)}, status: Assigned, expires: at, revision: store.Revision(number)}
}
