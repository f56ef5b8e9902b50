package loadtest

import (
	"math"
	"math/bits"
	"time"
)

// precision is the number of bits of a latency that count: the rest is rounded off, which is an error
// of one in a thousand at most.
const precision = 10

// latencies is a histogram whose buckets grow with what they hold, so that its memory does not depend on
// how much is recorded.
type latencies struct {
	counts [(64 - precision) << precision]uint64
	total  uint64
}

// add records a latency; a negative one counts as none.
func (l *latencies) add(d time.Duration) {
	l.counts[bucketOf(uint64(max(d, 0)))]++
	l.total++
}

// bucketOf returns the bucket of a value: up to 2^(precision+1) each value has its own, from there on
// each power of two has 2^precision.
func bucketOf(v uint64) int {
	shift := max(bits.Len64(v)-precision-1, 0)
	return shift<<precision + int(v>>shift)
}

// middleOf returns the middle of a bucket.
func middleOf(bucket int) float64 {
	shift := max(bucket>>precision-1, 0)
	least := uint64(bucket-shift<<precision) << shift
	return float64(least) + float64(uint64(1)<<shift-1)/2
}

// quantile returns what a share q of the latencies does not exceed; 0 if there are none.
func (l *latencies) quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(l.total))), 1)
	for bucket, n := range l.counts {
		if n >= rank {
			return time.Duration(middleOf(bucket))
		}
		rank -= n
	}
	return 0
}

func round(x float64, decimals int) float64 {
	unit := math.Pow10(decimals)
	return math.Round(x*unit) / unit
}
