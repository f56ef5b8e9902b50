//go:build unix

package loadtest

import (
	"syscall"
	"time"
)

// processTime returns the CPU time that the process has used.
func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil { // not for this process
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
