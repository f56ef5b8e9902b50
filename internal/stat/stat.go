// Package stat holds the counters that the rooms keep of their own work. They know nothing of any
// monitoring system: package observe reads the snapshots when it is asked for metrics.
//
// Every zero value is ready for use, and everything is safe for concurrent use. Counting costs one
// atomic addition and never allocates. Values must not be copied after their first use.
package stat

import (
	"fmt"
	"math"
	"sync/atomic"
)

// Counter counts events; it never goes down.
type Counter struct{ n atomic.Uint64 }

// Inc counts one event.
func (c *Counter) Inc() { c.n.Add(1) }

// Add counts n events.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Load returns the number of events so far.
func (c *Counter) Load() uint64 { return c.n.Load() }

// MaxKeys is the number of keys that a [Vec] has room for: 0 to MaxKeys−1.
const MaxKeys = 32

// Key is a small closed enumeration, such as the reasons for a refusal. The values outside of it, which
// 0 may be and 255 has to be, must share one String, such as "" or "unknown".
type Key interface {
	~uint8
	fmt.Stringer
}

// Vec is a [Counter] for each value of K. Counting under a value from [MaxKeys] on panics. Until the
// first event it holds no counters, so that there may be many.
type Vec[K Key] struct {
	counters atomic.Pointer[[MaxKeys]Counter]
}

// Inc counts one event under k.
func (v *Vec[K]) Inc(k K) { v.made()[k].Inc() }

// Add counts n events under k.
func (v *Vec[K]) Add(k K, n uint64) { v.made()[k].Add(n) }

// Load returns the number of events under k so far.
func (v *Vec[K]) Load(k K) uint64 {
	if counters := v.counters.Load(); counters != nil {
		return counters[k].Load()
	}
	return 0
}

func (v *Vec[K]) made() *[MaxKeys]Counter {
	if counters := v.counters.Load(); counters != nil {
		return counters
	}
	v.counters.CompareAndSwap(nil, new([MaxKeys]Counter))
	return v.counters.Load()
}

// Snapshot returns all counters of the enumeration by the text of their key, also those that are
// zero, so that a series is known before its first event. The counters are read one after the other.
func (v *Vec[K]) Snapshot() map[string]uint64 {
	outside := K(math.MaxUint8).String()
	snapshot := make(map[string]uint64)
	for k := range K(MaxKeys) {
		if text := k.String(); text != outside {
			snapshot[text] = v.Load(k)
		}
	}
	return snapshot
}
