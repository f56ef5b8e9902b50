package taint_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/taint"
)

func ExampleSet() {
	seen := taint.Of(taint.Tool("search"))
	used := seen.With(taint.Peer("00ff"))
	fmt.Println(seen, "|", used, "|", used.Has("peer:00ff"))
	// Output: tool:search | peer:00ff, tool:search | true
}

func TestSetsAreImmutable(t *testing.T) {
	a := taint.Of("b", "d")
	b, c := a.With("c"), a.With("a")
	for _, x := range []struct {
		set  taint.Set
		want []string
	}{{a, []string{"b", "d"}}, {b, []string{"b", "c", "d"}}, {c, []string{"a", "b", "d"}}} {
		if got := x.set.Labels(); !slices.Equal(got, x.want) {
			t.Errorf("labels = %v, want %v", got, x.want)
		}
	}
	b.Labels()[0] = "changed"
	if !b.Has("b") {
		t.Error("the labels of a set were changed through the slice that it returned")
	}
}

// A set never has fewer labels than what it was made of, whatever bounds it meets.
func TestLabelsOnlyAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-z]{1,3}`)
		left := rapid.SliceOfN(label, 0, 90).Draw(t, "left")
		right := rapid.SliceOfN(label, 0, 90).Draw(t, "right")
		union := taint.Of(left...).Union(taint.Of(right...))
		for _, l := range slices.Concat(left, right) {
			if !union.Has(l) {
				t.Fatalf("the union lost %q", l)
			}
		}
		if n := len(union.Labels()); n > taint.MaxLabels {
			t.Fatalf("%d labels, more than %d", n, taint.MaxLabels)
		}
		if !slices.IsSorted(union.Labels()) {
			t.Fatalf("labels are not sorted: %v", union)
		}
	})
}

func TestBoundsHold(t *testing.T) {
	s := taint.Of(strings.Repeat("x", 1000), "")
	if got := s.Labels(); len(got) != 1 || len(got[0]) != taint.MaxLabelLen {
		t.Errorf("labels = %v", got)
	}
	if (taint.Set{}).Has("x") || !(taint.Set{}).IsEmpty() {
		t.Error("the empty set has a label")
	}
	for i := range taint.MaxLabels + 1 {
		s = s.With(fmt.Sprint(i))
	}
	if got := s.Labels(); !slices.Equal(got, []string{"many", "peer:many", "tool:many"}) {
		t.Errorf("labels beyond the bound = %v", got)
	}
	if s = s.With("later"); !s.Has("never mentioned") || s.IsEmpty() {
		t.Errorf("a set of many denies a label: %v", s)
	}
}
