//go:build soak

package audit_test

import "testing"

// Each look reads a whole log, so there are ten logs, or the time would grow with the square of the kills.
func TestKilledAmidWritesSoak(t *testing.T) {
	for log := range 10 {
		killLoops(t, log*50, 50)
	}
}
