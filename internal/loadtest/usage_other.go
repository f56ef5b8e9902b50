//go:build !unix

package loadtest

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// processTime returns the CPU time that the process has used as far as the Go runtime knows. It collects
// garbage, since that is when the figure is made.
func processTime() time.Duration {
	runtime.GC()
	samples := []metrics.Sample{{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(samples)
	var seconds [2]float64
	for i, s := range samples {
		if s.Value.Kind() == metrics.KindFloat64 {
			seconds[i] = s.Value.Float64()
		}
	}
	return time.Duration((seconds[0] - seconds[1]) * float64(time.Second))
}
