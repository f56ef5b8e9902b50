//go:build soak

package audit_test

import "testing"

func TestKilledAmidWritesSoak(t *testing.T) { killLoops(t, 500) }
