package loadtest

import (
	"runtime"
	"time"
)

// usage is what the process has used so far.
type usage struct {
	at     time.Time
	cpu    time.Duration
	allocs uint64 // objects
}

// measure reads the counters. It stops the world for a moment.
func measure() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{at: time.Now(), cpu: processTime(), allocs: m.Mallocs}
}
