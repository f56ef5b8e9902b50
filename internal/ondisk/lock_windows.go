package ondisk

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// TryLock takes the lock on an open file, or returns [ErrHeld] at once. It locks a byte far behind the text of the file, which others have to be able to read.
func TryLock(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrHeld
	}
	return err
}
