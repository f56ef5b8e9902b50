//go:build soak

package sqlite_test

import "testing"

func TestThousandKillsLoseNothingAcknowledged(t *testing.T) {
	t.Parallel()
	killLoops(t, 1000)
}

func TestFlippedBitsOfAWholeFile(t *testing.T) {
	t.Parallel()
	flipBits(t, 5)
}
