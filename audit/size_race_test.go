//go:build race

package audit_test

// All look at a whole log each time, which takes many times as long with the race detector.
const (
	flipsOfAByte   = 1
	largeLog       = 300
	largeFlips     = 10
	truncationStep = 397
)
