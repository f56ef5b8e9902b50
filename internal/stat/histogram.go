package stat

import (
	"math"
	"sort"
	"sync/atomic"
	"time"
)

// bounds are the upper limits of the buckets of a Histogram, each inclusive. They are the round
// numbers between what a signature costs and what a tool may take.
var bounds = [...]time.Duration{
	1 * time.Microsecond, 2500 * time.Nanosecond, 5 * time.Microsecond,
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, 60 * time.Second,
}

// Histogram counts durations in 24 fixed buckets from one microsecond to one minute, about two and a
// half times as wide each as the one before, and a last one for all that is longer.
type Histogram struct {
	counts [len(bounds) + 1]Counter
	sum    atomic.Uint64 // seconds, as the bits of a float64
}

// Observe counts d. A negative duration, which only a clock that was set back can produce, counts as
// zero.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(d)].Inc()
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+d.Seconds())) {
			return
		}
	}
}

// bucket returns the index of the first bound that is not less than d.
func bucket(d time.Duration) int {
	return sort.Search(len(bounds), func(i int) bool { return d <= bounds[i] })
}

// HistogramSnapshot is the state of a [Histogram] in the form of a Prometheus constant histogram.
type HistogramSnapshot struct {
	Count   uint64             // number of observations
	Sum     float64            // of all observations, in seconds
	Buckets map[float64]uint64 // upper bound in seconds → observations up to and including it
}

// Snapshot returns the state so far. Count and Buckets agree with each other; Sum may differ from
// them by observations that are being made at the same time.
func (h *Histogram) Snapshot() HistogramSnapshot {
	s := HistogramSnapshot{
		Sum:     math.Float64frombits(h.sum.Load()),
		Buckets: make(map[float64]uint64, len(bounds)),
	}
	for i, bound := range bounds {
		s.Count += h.counts[i].Load()
		s.Buckets[bound.Seconds()] = s.Count
	}
	s.Count += h.counts[len(bounds)].Load()
	return s
}

// Plus returns the distribution of the observations of both.
func (s HistogramSnapshot) Plus(o HistogramSnapshot) HistogramSnapshot {
	sum := HistogramSnapshot{Count: s.Count + o.Count, Sum: s.Sum + o.Sum, Buckets: map[float64]uint64{}}
	for _, buckets := range []map[float64]uint64{s.Buckets, o.Buckets} {
		for bound, n := range buckets {
			sum.Buckets[bound] += n
		}
	}
	return sum
}
