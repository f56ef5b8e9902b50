//go:build soak

package mcp_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/tool"
)

func TestThousandHungRemoteCallsLeaveNothingBehind(t *testing.T) {
	var hung atomic.Int64
	s := start(t, remote(t, answering(func(_ http.ResponseWriter, r *http.Request, _ string) {
		hung.Add(1)
		defer hung.Add(-1)
		<-r.Context().Done()
	}), "a"))
	before, goroutines := resources(t), runtime.NumGoroutine()
	g := guard(t, s, tool.GuardConfig{MaxConcurrent: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 1000 {
		calls.Go(func() {
			if _, err := g.Run(ctx, "it.a", nil); !errors.Is(err, tool.ErrCancelled) {
				t.Errorf("error %v", err)
			}
		})
	}
	deadline := within(t)
	for hung.Load() < 1000 && deadline.Err() == nil {
		runtime.Gosched()
	}
	most := resources(t)
	cancel()
	calls.Wait()
	if err := g.Wait(deadline); err != nil {
		t.Error(err)
	}
	// A few connections are kept for the next calls, on both sides: 16 each, with two goroutines each.
	for hung.Load() > 0 || resources(t) > before+4*16 || runtime.NumGoroutine() > goroutines+6*16 {
		if deadline.Err() != nil {
			t.Fatalf("%d calls hang at the server; %d descriptors before, %d then, %d after; %d goroutines before, %d after",
				hung.Load(), before, most, resources(t), goroutines, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
	t.Logf("%d descriptors before, %d with the calls, %d after; %d and %d goroutines", before, most, resources(t), goroutines, runtime.NumGoroutine())
}
