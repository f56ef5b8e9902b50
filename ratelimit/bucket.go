package ratelimit

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Bucket is one token bucket, for what is neither a sender nor a topic: the frames of a connection,
// say, or their bytes. [NewBucket] makes one. It is safe for concurrent use and needs no closing.
type Bucket struct {
	meter meter
	base  time.Time
	full  atomic.Int64 // when the bucket is full again, in ticks since base
}

// NewBucket makes a full bucket. The errors are those of [New] for a limit.
func NewBucket(limit Limit, now time.Time) (*Bucket, error) {
	m, err := limit.meter("Limit")
	if err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	return &Bucket{meter: m, base: now}, nil
}

// Take takes n tokens, or none if fewer are there. Then retryAfter is the least time after which the
// same call can succeed; it is [Never] if n is negative or more than the bucket holds. A now that is
// earlier than that of a former call adds no tokens.
func (b *Bucket) Take(n int, now time.Time) (ok bool, retryAfter time.Duration) {
	if n < 0 {
		return false, Never
	}
	wait := b.take(int64(n), ticks(b.base, now))
	return wait == 0, wait
}

// take returns 0 after taking n tokens, or else how long to wait for them.
func (b *Bucket) take(n, now int64) time.Duration {
	for {
		full := b.full.Load()
		after, wait := b.meter.take(full, now, n)
		if wait > 0 {
			return wait
		}
		if after == full || b.full.CompareAndSwap(full, after) {
			return 0
		}
	}
}

// wait returns how long to wait for n tokens, and takes none.
func (b *Bucket) wait(n, now int64) time.Duration {
	_, wait := b.meter.take(b.full.Load(), now, n)
	return wait
}
