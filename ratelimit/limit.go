package ratelimit

import (
	"fmt"
	"math"
	"math/big"
	"time"
)

// Limit is the size and the speed of a token bucket.
//
// The zero Limit denies everything, and so does every other one with the rate 0: nothing would refill
// its bucket. The smallest unit of a rate is one nanosecond for each token; a rate between two units
// is rounded down. That is a loss of 0.1 % at most up to a million tokens a second, but 300 million a
// second come down to 250 million, and rates over 10⁹ are 10⁹. A bucket must be able to fill within
// 36 years.
type Limit struct {
	// Rate is the number of tokens that a bucket gains in a second. It may be a fraction.
	Rate float64
	// Burst is the number of tokens that a bucket holds: at least 1 if there is a rate.
	Burst int
}

// Unlimited is the limit that admits everything. Its buckets take no memory.
var Unlimited = Limit{Rate: math.Inf(1)}

// Never is the waiting time for something that will not be admitted however long one waits.
const Never time.Duration = math.MaxInt64

// maxDepth is the longest time that a bucket may take to fill, in nanoseconds. With it and with the
// bounds of ticks, no sum or difference of times overflows.
const maxDepth = 1 << 60

// meter is a Limit, made ready for calculation in nanoseconds. The zero meter denies.
type meter struct {
	interval  int64 // what a token is worth; 0 denies
	depth     int64 // what a full bucket is worth
	unlimited bool
}

// meter checks the limit. Errors begin with the name of the field at fault, within the struct that
// the caller names.
func (l Limit) meter(name string) (meter, error) {
	switch {
	case math.IsNaN(l.Rate):
		return meter{}, fmt.Errorf("%s.Rate: not a number", name)
	case l.Rate < 0:
		return meter{}, fmt.Errorf("%s.Rate: %v is negative", name, l.Rate)
	case l.Burst < 0:
		return meter{}, fmt.Errorf("%s.Burst: %d is negative", name, l.Burst)
	case math.IsInf(l.Rate, 1):
		return meter{unlimited: true}, nil
	case l.Rate == 0:
		return meter{}, nil
	case l.Burst == 0:
		return meter{}, fmt.Errorf("%s.Burst: a bucket that holds no token denies whatever its rate; set at least 1, or the rate 0", name)
	}
	interval := nanosecondsPerToken(l.Rate)
	if interval > maxDepth {
		return meter{}, fmt.Errorf("%s.Rate: at %v tokens a second, one takes longer than 36 years", name, l.Rate)
	}
	if int64(l.Burst) > maxDepth/interval {
		return meter{}, fmt.Errorf("%s.Burst: at %v tokens a second, %d take longer than 36 years", name, l.Rate, l.Burst)
	}
	return meter{interval: interval, depth: int64(l.Burst) * interval}, nil
}

// nanosecondsPerToken returns 10⁹/rate, rounded up, or at least maxDepth+1 if it is more than that.
// It is exact: division of floating-point numbers would at times round down.
func nanosecondsPerToken(rate float64) int64 {
	exact := new(big.Rat).SetFloat64(rate)
	exact.Quo(big.NewRat(int64(time.Second), 1), exact)
	interval, rest := new(big.Int).QuoRem(exact.Num(), exact.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		interval.Add(interval, big.NewInt(1))
	}
	if !interval.IsInt64() {
		return math.MaxInt64
	}
	return interval.Int64()
}

// take returns the state of a bucket after a take of n tokens, where the state is the time at which
// the bucket is full again, or how long to wait until they are there; n is not negative.
func (m meter) take(full, now, n int64) (after int64, wait time.Duration) {
	switch {
	case m.unlimited:
		return full, 0
	case m.interval == 0 || n > m.depth/m.interval:
		return full, Never
	}
	after = max(full, now) + n*m.interval
	return after, time.Duration(max(0, after-m.depth-now))
}

// ticks is the time as the buckets count it: nanoseconds since base, within 73 years, so that the
// arithmetic on it cannot overflow. Beyond that, time stands still and buckets no longer fill.
func ticks(base, now time.Time) int64 {
	const limit = 1 << 61
	return max(-limit, min(int64(now.Sub(base)), limit))
}
