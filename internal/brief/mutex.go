// Package brief has a lock for what takes less time than it takes to wait in a queue.
package brief

import "sync"

// Mutex is a [sync.Mutex] for critical sections of well under a microsecond that many goroutines enter. Where other
// goroutines are ready to run, as they are under load, a sync.Mutex that is taken puts the caller to sleep at once; a switch
// of goroutines takes longer than the section, those who wait are let in one after the other, by switches, and so the
// queue does not go away. A Mutex looks again for about as long as such a switch takes, and then waits as any other.
//
// What the holder changes is best kept on another cache line, which those who look do not take away from it.
type Mutex struct{ mu sync.Mutex }

// tries take about half a microsecond.
const tries = 400

// Lock locks m.
func (m *Mutex) Lock() {
	for range tries {
		if m.mu.TryLock() {
			return
		}
	}
	m.mu.Lock()
}

// TryLock locks m if it is free, and tells whether it was.
func (m *Mutex) TryLock() bool { return m.mu.TryLock() }

// Unlock unlocks m.
func (m *Mutex) Unlock() { m.mu.Unlock() }
