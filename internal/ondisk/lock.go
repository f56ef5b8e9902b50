//go:build darwin || freebsd || linux || netbsd || openbsd || windows

package ondisk

import (
	"context"
	"errors"
	"os"
	"time"
)

// ErrHeld says that another has the lock.
var ErrHeld = errors.New("held")

// How long Lock waits. A process that is killed while it starts a program leaves its lock, for a moment, with the child
// that has yet to become that program.
const (
	patience = time.Second
	retry    = 10 * time.Millisecond
)

// Lock takes the lock on an open file, which closing the file gives back. If another has it, Lock looks again for a
// second, or until ctx ends, and then returns [ErrHeld]. The file is not to be removed while processes may lock it: they
// would lock two files of one name.
func Lock(ctx context.Context, f *os.File) error {
	err := TryLock(f)
	for end := time.Now().Add(patience); errors.Is(err, ErrHeld) && ctx.Err() == nil && time.Now().Before(end); err = TryLock(f) {
		time.Sleep(retry)
	}
	return err
}
