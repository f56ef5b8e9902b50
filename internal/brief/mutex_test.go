package brief_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/brief"
)

func TestOneAtATime(t *testing.T) {
	var mu brief.Mutex
	var all sync.WaitGroup
	n := 0
	for range 16 {
		all.Go(func() {
			for range 1000 {
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if n != 16000 {
		t.Errorf("16 goroutines have counted to %d", n)
	}
}

// TestLongHolderIsWaitedFor holds the lock for longer than anybody looks whether it is free.
func TestLongHolderIsWaitedFor(t *testing.T) {
	var mu brief.Mutex
	mu.Lock()
	var released atomic.Bool
	time.AfterFunc(20*time.Millisecond, func() {
		released.Store(true)
		mu.Unlock()
	})
	mu.Lock()
	defer mu.Unlock()
	if !released.Load() {
		t.Error("two have the lock")
	}
}
