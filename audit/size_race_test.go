//go:build race

package audit_test

// Both look at a whole log each time, which takes many times as long with the race detector.
const (
	largeFlips     = 20
	truncationStep = 397
)
