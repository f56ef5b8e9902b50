package loadtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestQuantilesAgainstSortedList compares the histogram with all values, sorted.
func TestQuantilesAgainstSortedList(t *testing.T) {
	var l latencies
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(math.Exp(rand.Float64() * math.Log(float64(time.Hour))))
		all = append(all, d)
		l.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 1} {
		want := all[max(int(math.Ceil(q*float64(len(all))))-1, 0)]
		got := l.quantile(q)
		if math.Abs(float64(got-want)) > float64(want)/1000 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
}

func TestEveryLatencyHasABucket(t *testing.T) {
	var l latencies
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, 2047, 2048, math.MaxInt64} {
		l.add(d)
	}
	if l.quantile(0) != 0 || l.total != 7 {
		t.Errorf("least of %d latencies: %v", l.total, l.quantile(0))
	}
	if got := l.quantile(1); float64(got) < 0.999*math.MaxInt64 {
		t.Errorf("greatest latency: %v", got)
	}
	if empty := new(latencies); empty.quantile(0.5) != 0 {
		t.Errorf("median of none: %v", empty.quantile(0.5))
	}
}
