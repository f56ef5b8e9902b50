//go:build soak

package mcp_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/internal/held"
	"github.com/converge-agents/converge/tool"
)

func TestThousandHungRemoteCallsLeaveNothingBehind(t *testing.T) {
	var hung atomic.Int64
	s := start(t, remote(t, answering(func(_ http.ResponseWriter, r *http.Request, _ string) {
		hung.Add(1)
		defer hung.Add(-1)
		<-r.Context().Done()
	}), "a"))
	before := held.Now(t)
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
	await(t, func() bool { return hung.Load() == 1000 })
	most := held.Now(t)
	cancel()
	calls.Wait()
	if err := g.Wait(within(t)); err != nil {
		t.Error(err)
	}
	// A few connections are kept for the next calls, on both sides: 16 each, with two goroutines each.
	after := before.Plus(held.Held{Descriptors: 4 * 16, Goroutines: 6 * 16}).AtMost(t)
	if n := hung.Load(); n > 0 {
		t.Errorf("%d calls hang at the server", n)
	}
	t.Logf("1000 calls over HTTP hang: before, %v; meanwhile, %v; given up, %v", before, most, after)
}
