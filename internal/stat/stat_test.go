package stat_test

import (
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/stat"
)

type color uint8

const (
	red color = iota + 1
	green
)

func (c color) String() string {
	switch c {
	case red:
		return "red"
	case green:
		return "green"
	}
	return "unknown"
}

func TestVecCountsByKey(t *testing.T) {
	var v stat.Vec[color]
	if got, want := v.Snapshot(), (map[string]uint64{"red": 0, "green": 0}); !maps.Equal(got, want) {
		t.Errorf("the zero value is %v", got)
	}
	const n = 1000
	var counting sync.WaitGroup
	for range 4 {
		counting.Go(func() {
			for range n {
				v.Inc(red)
				v.Add(green, 2)
			}
		})
	}
	counting.Wait()
	if got, want := v.Snapshot(), (map[string]uint64{"red": 4 * n, "green": 8 * n}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if v.Load(red) != 4*n {
		t.Errorf("red is %d", v.Load(red))
	}
}

func TestHistogramBuckets(t *testing.T) {
	var h stat.Histogram
	for _, d := range []time.Duration{
		-time.Second,                    // counts as zero
		time.Microsecond,                // bounds are inclusive
		time.Microsecond + 1,            // the next bucket
		5 * time.Millisecond, time.Hour, // the last one is beyond all bounds
	} {
		h.Observe(d)
	}
	s := h.Snapshot()
	if want := 3600.005002001; s.Count != 5 || math.Abs(s.Sum-want) > 1e-9 {
		t.Errorf("count %d, sum %v", s.Count, s.Sum)
	}
	for bound, want := range map[float64]uint64{1e-6: 2, 2.5e-6: 3, 2.5e-3: 3, 5e-3: 4, 1: 4, 60: 4} {
		if got, ok := s.Buckets[bound]; !ok || got != want {
			t.Errorf("%d observations up to %v s, want %d", got, bound, want)
		}
	}
	bounds := slices.Sorted(maps.Keys(s.Buckets))
	if len(bounds) != 24 || bounds[0] != 1e-6 || bounds[23] != 60 {
		t.Errorf("bounds %v", bounds)
	}
}

func TestHistogramUnderConcurrency(t *testing.T) {
	var h stat.Histogram
	const n = 1000
	var observing sync.WaitGroup
	for range 4 {
		observing.Go(func() {
			for range n {
				h.Observe(time.Second)
			}
		})
	}
	for range 100 {
		if s := h.Snapshot(); s.Count != s.Buckets[60] {
			t.Errorf("count %d, but %d up to 60 s", s.Count, s.Buckets[60])
		}
	}
	observing.Wait()
	if s := h.Snapshot(); s.Count != 4*n || s.Sum != 4*n || s.Buckets[0.5] != 0 || s.Buckets[1] != 4*n {
		t.Errorf("got %+v", s)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h stat.Histogram
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(300 * time.Microsecond)
	}
}

func BenchmarkInc(b *testing.B) {
	var v stat.Vec[color]
	for b.Loop() {
		v.Inc(red)
	}
}
