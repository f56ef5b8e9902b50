//go:build soak

package message_test

import (
	"math/rand/v2"
	"testing"
)

// TestEveryBitFlipOfAThousandEnvelopesIsRefused is the full version of TestRandomBitFlipIsRefused; it
// takes minutes.
func TestEveryBitFlipOfAThousandEnvelopesIsRefused(t *testing.T) {
	c, random := newClock(), rand.New(rand.NewPCG(3, 4))
	s, v := newSigner(alice, c), newVerifier(bob, c, ">")
	for range 1000 {
		raw := sign(t, s, randomDraft(random))
		flipEveryBit(t, v, raw)
		accepts(t, v, raw, "the unharmed envelope")
	}
}

// TestEveryBitFlipInBatchesOfManyShapesIsRefused is the full version of
// TestEverySingleBitFlipInABatchIsRefused.
func TestEveryBitFlipInBatchesOfManyShapesIsRefused(t *testing.T) {
	for size := 2; size <= 17; size++ {
		for index := range size {
			flipEveryBitInABatch(t, size, index)
		}
	}
	b := newBatch(numbered(9)...)
	for index := range 9 { // with a root that the receiver does not know yet
		flipEveryBit(t, newVerifier(bob, newClock()), b.frame(index))
	}
}
