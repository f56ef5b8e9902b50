//go:build race && !soak

package message_test

import "flag"

// The same sizes with the race detector, under which each signature takes many times as long. What the tests prove is
// the same, of fewer cases; the run without the race detector, which CI makes too, has them all.
const (
	flipStride   = 5 // so that each bit of a byte has its turn
	randomFlips  = 200
	sealedStride = 13
	crashSteps   = 45
	backlogRate  = 3
	refusedOnes  = 100
	steadyOnes   = 400
	takenOver    = 100
	trafficRate  = 5
	allocFrames  = 100
	stopsAmid    = 2
	heldUp       = 100
	lendings     = 3
)

// batchSizes are whole trees and others, of each depth once.
var batchSizes = []int{2, 3, 5, 8}

// Random properties are tried fewer times, unless the flag says how often.
func init() {
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
}
