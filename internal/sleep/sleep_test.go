package sleep_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
)

func TestSleepLastsUntilItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := sleep.For(t.Context(), time.Hour); err != nil || time.Since(began) != time.Hour {
			t.Errorf("slept for %v: %v", time.Since(began), err)
		}
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
		defer cancel()
		began := time.Now()
		if err := sleep.For(ctx, time.Hour); err != why || time.Since(began) != time.Minute {
			t.Errorf("slept for %v: %v, want %v", time.Since(began), err, why)
		}
	})
}
