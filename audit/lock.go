package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// errHeld is the answer of tryLock when another has the lock.
var errHeld = errors.New("held")

// How long acquire waits for a lock. A process that is killed while it starts a program leaves it, for a moment, with
// the child that has yet to become that program.
const (
	lockPatience = time.Second
	lockRetry    = 10 * time.Millisecond
)

// acquire takes the lock on a folder, which the system releases when the process ends, however it ends.
func acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = tryLock(f)
	for end := time.Now().Add(lockPatience); errors.Is(err, errHeld) && time.Now().Before(end); err = tryLock(f) {
		time.Sleep(lockRetry)
	}
	if errors.Is(err, errHeld) {
		err = &hinted{fmt.Errorf("%w: %q", ErrLocked, dir), "one process at a time writes to a folder: stop the other one, or give this one a folder of its own (audit.dir)"}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
