// Package sleep waits, but not beyond the end of a context.
package sleep

import (
	"context"
	"time"
)

// For returns nil after d. If ctx ends before, it returns the cause of that at once.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
