package task

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A ranking is the same as a sorted slice, however its runs split and empty.
func TestRankingIsSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l ranking
		var model []ranked
		entry := rapid.Custom(func(t *rapid.T) ranked {
			return ranked{rapid.Int64Range(-2, 2).Draw(t, "major"), rapid.Int64Range(0, 5).Draw(t, "minor"), anyRecord()}
		})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				e := entry.Draw(t, "entry")
				step := rapid.Int64Range(-1, 1).Draw(t, "step") // downwards, all in one place, or upwards
				for range rapid.IntRange(1, 200).Draw(t, "n") {
					l.add(e)
					model = append(model, e)
					e.rec, e.minor = anyRecord(), e.minor+step
				}
				slices.SortFunc(model, byRank)
			},
			"remove": func(t *rapid.T) {
				from := rapid.IntRange(0, len(model)).Draw(t, "from")
				to := min(len(model), from+rapid.IntRange(0, 300).Draw(t, "n"))
				for _, e := range model[from:to] {
					l.remove(e)
				}
				model = slices.Delete(model, from, to)
			},
			"remove some and put them back": func(t *rapid.T) {
				every := rapid.IntRange(1, 5).Draw(t, "every")
				for i := 0; i < len(model); i += every {
					if !l.remove(model[i]) || l.remove(model[i]) {
						t.Fatalf("number %d was not there, or was there twice", i)
					}
				}
				for i := 0; i < len(model); i += every {
					l.add(model[i])
				}
			},
			"remove what is not there": func(t *rapid.T) { l.remove(entry.Draw(t, "entry")) },
			"": func(t *rapid.T) {
				var got []ranked
				if l.size > 0 {
					for c, more := newCursor(&l), true; more; more = c.next() {
						got = append(got, c.ranked)
					}
				}
				if !slices.Equal(got, model) || l.size != len(model) {
					t.Fatalf("%d of %d entries, in order: %t", len(got), len(model), slices.IsSortedFunc(got, byRank))
				}
				if len(model) > 0 && l.first() != model[0].major {
					t.Fatalf("the first is %d, want %d", l.first(), model[0].major)
				}
				for i, run := range l.runs {
					if len(run.all) == 0 || len(run.all) > runLength || run.dead > len(run.all)/2 || run.last() != l.lasts[i] {
						t.Fatalf("a run of %d, %d of which are removed; its last is known: %t", len(run.all), run.dead, run.last() == l.lasts[i])
					}
				}
			},
		})
	})
}

func anyRecord() *record { return &record{fixed: &fixed{spec: Spec{ID: NewID()}}} }

func byRank(a, b ranked) int {
	return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor), strings.Compare(a.rec.spec.ID, b.rec.spec.ID))
}
