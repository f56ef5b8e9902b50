// Package inflight counts what is under way, until nothing more may begin.
package inflight

import "sync"

// Group is what is under way. The zero value is empty and open; all methods are safe for concurrent use.
type Group struct {
	mu      sync.Mutex // guards shut, and running.Add against running.Wait
	shut    bool
	running sync.WaitGroup
}

// Begin counts one in, for which the caller calls Done in the end. It returns false, and counts nothing, once the group is
// shut.
func (g *Group) Begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.running.Add(1)
	return true
}

// Done counts one out.
func (g *Group) Done() { g.running.Done() }

// Shut lets nothing more begin. Shutting twice is fine.
func (g *Group) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// IsShut reports whether Shut was called.
func (g *Group) IsShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// Wait waits until nothing is under way. It is called after Shut.
func (g *Group) Wait() { g.running.Wait() }
