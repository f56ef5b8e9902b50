//go:build !linux

package held

import "testing"

func descriptors(testing.TB) int { return 0 }

func processes(testing.TB) int { return 0 }
