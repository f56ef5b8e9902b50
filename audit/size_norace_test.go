//go:build !race

package audit_test

const (
	largeFlips     = 100 // bits of a large log that are flipped, one after the other
	truncationStep = 61  // bytes between the places where files are cut; a prime, so that they are all over receipts
)
