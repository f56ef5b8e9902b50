// Package held counts what this process holds, for tests that say that nothing is left behind.
package held

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Held is what a process holds. Systems other than Linux tell only of goroutines: the rest is 0 there.
type Held struct {
	Goroutines  int // all of them, those of paused tests included
	Processes   int // its children, their children, and so on
	Descriptors int
}

// Now counts. Other goroutines may go on meanwhile, so a test should not run beside others that open or start things.
func Now(t testing.TB) Held {
	t.Helper()
	return Held{runtime.NumGoroutine(), processes(t), descriptors(t)}
}

// String says it in words.
func (h Held) String() string {
	return fmt.Sprintf("%d goroutines, %d processes, %d descriptors", h.Goroutines, h.Processes, h.Descriptors)
}

// Plus adds what may be kept: idle connections, say.
func (h Held) Plus(more Held) Held {
	return Held{h.Goroutines + more.Goroutines, h.Processes + more.Processes, h.Descriptors + more.Descriptors}
}

// patience bounds the wait for what is on its way out.
const patience = 2 * time.Minute

// AtMost waits until the process holds no more than h, since goroutines and the kernel take a moment to end what has
// been given up, and returns what it holds then. If it goes on to hold more, the test fails.
func (h Held) AtMost(t testing.TB) Held {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // the kernel has no fake clock
		now := Now(t)
		if now.Goroutines <= h.Goroutines && now.Processes <= h.Processes && now.Descriptors <= h.Descriptors {
			return now
		}
		if time.Now().After(deadline) {
			t.Errorf("the process holds %v, want %v at most", now, h)
			return now
		}
	}
}
