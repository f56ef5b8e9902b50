package task

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
)

// With room for ten, hundreds are deleted all the same, whether they ended before somebody was attached or
// after, and nothing else is.
func TestMoreEndsThanAManagerHasInMind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		m, err := New(Config{Store: s, UnsignedUnsafe: true, Retention: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		m.attic.room = 10
		finish := func(n int, name string) {
			for i := range n {
				k, err := m.Submit(t.Context(), Spec{ID: fmt.Sprint(name, i), Kind: "k", Submitter: identity.ID{1}})
				if err == nil {
					_, err = m.Cancel(t.Context(), k.ID, k.Submitter)
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
		}
		finish(100, "before")
		defer m.Attach(func(Task) {})()
		finish(100, "after")
		left := func() int {
			page, err := m.List(t.Context(), Filter{}, MaxPage, "")
			if err != nil {
				t.Fatal(err)
			}
			return len(page.Tasks)
		}
		time.Sleep(time.Hour - 210*time.Second)
		if n := left(); n != 200 {
			t.Errorf("%d tasks are left before their time", n)
		}
		time.Sleep(10*time.Second + 100*time.Second)
		if n := left(); n < 100 || n > 112 {
			t.Errorf("%d tasks are left after the time of half of them", n)
		}
		time.Sleep(10 * time.Minute)
		if n := left(); n != 0 {
			t.Errorf("%d tasks are left in the end", n)
		}
		finish(5, "again")
		time.Sleep(2 * time.Hour)
		if n := left(); n != 0 || m.Stats().Pruned != 205 {
			t.Errorf("%d tasks are left, %d were deleted", n, m.Stats().Pruned)
		}
	})
}

// What is taken out of an attic is the earliest that was put in, in order.
func TestAtticKeepsTheEarliest(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a := newAttic()
		a.room = rapid.IntRange(1, 20).Draw(r, "room")
		dues := rapid.SliceOf(rapid.Int64Range(0, 50)).Draw(r, "dues")
		c := a.newCollector()
		for _, due := range dues {
			c.add(past{due: due})
		}
		a.replace(c)
		slices.Sort(dues)
		kept := min(a.room, len(dues))
		for i, want := range dues[:kept] {
			p, ok, more := a.next()
			if !ok || p.due != want || more != (len(dues) > a.room) {
				r.Fatalf("number %d of %v in room for %d is %v, %v, %v", i, dues, a.room, p.due, ok, more)
			}
			a.pop()
		}
		if _, ok, _ := a.next(); ok {
			r.Fatal("there is another")
		}
	})
}
