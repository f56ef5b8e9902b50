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

// TestEveryBitFlipOfSealedMessagesIsRefused is the full version of TestEverySingleBitFlipOfASealedMessageIsRefused.
func TestEveryBitFlipOfSealedMessagesIsRefused(t *testing.T) {
	other := newEnvelope(noon, direct(bob)).numbered(1, 2)
	flipEveryBitSealed(t, map[string][]byte{
		"hybrid":      edited(direct(bob), sealed(bobHybrid)).raw(),
		"several":     edited(direct(bob), sealed(bobX, carolX)).raw(),
		"two suites":  edited(direct(bob), sealed(bobX, carolHybrid)).raw(),
		"batch":       newBatch(edited(direct(bob), head(labelVDS, 1), sealed(bobX)), other).frame(0),
		"in a batch":  newBatch(edited(network, head(labelVDS, 1), sealed(bobHybrid, carolX)), other).frame(0),
		"by a topic":  edited(network+"/topic/orders.created", sealed(bobX)).raw(),
		"empty":       edited(direct(bob), func(e *envelope) { e.body = nil }, sealed(bobX)).raw(),
		"every field": edited(direct(bob), claim(claimTaskID, "t"), claim(claimTrace, "00"), sealed(bobX)).raw(),
	})
}
