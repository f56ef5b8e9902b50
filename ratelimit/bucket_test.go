package ratelimit_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/ratelimit"
)

func TestBucketTakesAllOrNothing(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	b := newBucket(t, ratelimit.Limit{Rate: 1000, Burst: 100}, now)
	for _, step := range []struct {
		n          int
		wait       time.Duration // before
		ok         bool
		retryAfter time.Duration
	}{
		{n: 60, ok: true},
		{n: 41, retryAfter: time.Millisecond},
		{n: 40, ok: true},
		{n: 100, retryAfter: 100 * time.Millisecond},
		{n: 0, ok: true},
		{n: 101, retryAfter: ratelimit.Never},
		{n: -1, retryAfter: ratelimit.Never},
		{n: math.MaxInt, retryAfter: ratelimit.Never},
		{n: math.MinInt, retryAfter: ratelimit.Never},
		{n: 100, wait: 100*time.Millisecond - 1, retryAfter: 1},
		{n: 100, wait: 1, ok: true},
		{n: 100, wait: time.Hour, ok: true},
		{n: 1, retryAfter: time.Millisecond},
		{n: 1, wait: -time.Minute, retryAfter: time.Minute + time.Millisecond},
	} {
		now = now.Add(step.wait)
		if ok, retryAfter := b.Take(step.n, now); ok != step.ok || retryAfter != step.retryAfter {
			t.Errorf("%+v: got %t, %v", step, ok, retryAfter)
		}
	}
}

func TestBucketLimits(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	if ok, retryAfter := newBucket(t, ratelimit.Limit{}, now).Take(1, now); ok || retryAfter != ratelimit.Never {
		t.Errorf("the zero limit: %t, %v", ok, retryAfter)
	}
	if ok, retryAfter := new(ratelimit.Bucket).Take(1, now); ok || retryAfter != ratelimit.Never {
		t.Errorf("the zero bucket: %t, %v", ok, retryAfter)
	}
	if ok, _ := newBucket(t, ratelimit.Unlimited, now).Take(math.MaxInt, now); !ok {
		t.Error("Unlimited refuses")
	}
	_, err := ratelimit.NewBucket(ratelimit.Limit{Rate: math.NaN()}, now)
	if err == nil || !strings.Contains(err.Error(), "Limit.Rate") {
		t.Errorf("NaN: error %v", err)
	}
}

// TestBucketAtTheEndsOfTime lets the clock jump as far as it can, where sums could overflow.
func TestBucketAtTheEndsOfTime(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	past, future := time.Unix(-1<<40, 0), time.Unix(1<<40, 0)
	b := newBucket(t, ratelimit.Limit{Rate: 1e-9, Burst: 1}, now)
	for _, step := range []struct {
		now time.Time
		ok  bool
	}{{past, false}, {now, true}, {past, false}, {future, true}, {future, false}, {past, false}, {now, false}} {
		ok, retryAfter := b.Take(1, step.now)
		if ok != step.ok || ok != (retryAfter == 0) || retryAfter < 0 {
			t.Errorf("at %v: %t, %v", step.now, ok, retryAfter)
		}
	}
}

func newBucket(t *testing.T, limit ratelimit.Limit, now time.Time) *ratelimit.Bucket {
	t.Helper()
	b, err := ratelimit.NewBucket(limit, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
