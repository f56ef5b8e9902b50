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
