package inflight_test

import (
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/internal/inflight"
)

func TestNothingBeginsInAShutGroup(t *testing.T) {
	var g inflight.Group
	if !g.Begin() || g.IsShut() {
		t.Fatal("a new group is shut")
	}
	g.Shut()
	g.Shut()
	if g.Begin() || !g.IsShut() {
		t.Error("a shut group is open")
	}
	g.Done()
	g.Wait()
}

func TestWaitIsForAllThatHasBegun(t *testing.T) {
	var g inflight.Group
	var under atomic.Int64
	started := make(chan struct{}, 8)
	for range 8 {
		go func() {
			for g.Begin() {
				under.Add(1)
				select {
				case started <- struct{}{}:
				default:
				}
				under.Add(-1)
				g.Done()
			}
		}()
	}
	<-started
	g.Shut()
	g.Wait()
	if n := under.Load(); n != 0 {
		t.Errorf("%d were under way after Wait", n)
	}
}
