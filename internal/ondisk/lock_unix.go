//go:build darwin || freebsd || linux || netbsd || openbsd

package ondisk

import (
	"errors"
	"os"
	"syscall"
)

// TryLock takes the lock on an open file, or returns [ErrHeld] at once. The lock belongs to the open file; it does not touch the locks of SQLite, which
// belong to the process and to the database itself.
func TryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrHeld
		}
		return err
	}
}
