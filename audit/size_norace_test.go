//go:build !race

package audit_test

const (
	flipsOfAByte   = 8    // bits of each byte of a small log that are flipped
	largeLog       = 2000 // receipts
	largeFlips     = 100  // bits of a large log that are flipped, one after the other
	truncationStep = 61   // bytes between the places where files are cut; a prime, so that they are all over receipts
)
