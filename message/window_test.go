package message

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestWindowAgainstModel compares a window with a set of all numbers, around any place that 64 bits
// can count to. Half of the numbers are some that share places in the window.
func TestWindowAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{1, math.MaxInt64, math.MaxUint64})).Draw(t, "base")
		var w window
		var highest uint64
		seen := map[uint64]bool{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			offset := rapid.Uint64Range(0, 3*windowSize).Draw(t, "offset")
			if rapid.Bool().Draw(t, "shared") {
				offset = rapid.Uint64Range(0, 3).Draw(t, "rounds")*windowSize + offset%4
			}
			seq := base - offset
			if rapid.Bool().Draw(t, "up") || offset >= base {
				seq = base + min(offset, math.MaxUint64-base)
			}
			if seq == 0 {
				continue // not a sequence number
			}
			want := seen[seq] || seq < highest && highest-seq >= windowSize
			if got := w.seen(seq); got != want {
				t.Fatalf("%d with %d the highest: seen %t, want %t", seq, highest, got, want)
			}
			if !want {
				w.mark(seq)
				seen[seq], highest = true, max(highest, seq)
			}
		}
	})
}
