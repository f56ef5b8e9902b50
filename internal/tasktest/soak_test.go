//go:build soak

package tasktest_test

import "testing"

func TestHundredClaimersOfTenThousandTasks(t *testing.T) { race(t, 10000) }
