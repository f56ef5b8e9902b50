package listeners_test

import (
	"slices"
	"testing"

	"github.com/converge-agents/converge/internal/listeners"
)

func TestWhoIsRemovedHearsNothingMore(t *testing.T) {
	var list listeners.List[int]
	var first, second []int
	one, n := list.Add(func(i int) { first = append(first, i) })
	_, m := list.Add(func(i int) { second = append(second, i) })
	if n != 1 || m != 2 {
		t.Errorf("%d and then %d listeners", n, m)
	}
	list.Tell(1, 2)
	if left := list.Remove(one); left != 1 {
		t.Errorf("%d are left", left)
	}
	if left := list.Remove(one); left != 1 {
		t.Errorf("removed twice, %d are left", left)
	}
	list.TellIf(func() bool { return false }, 3)
	list.TellIf(func() bool { return true }, 4)
	if !slices.Equal(first, []int{1, 2}) || !slices.Equal(second, []int{1, 2, 4}) {
		t.Errorf("told %v and %v", first, second)
	}
}
