//go:build !unix

package tasktest

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
