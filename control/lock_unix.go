//go:build darwin || freebsd || linux || netbsd || openbsd

package control

import (
	"errors"
	"fmt"
	"os"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// checkDir refuses a directory in which others could put a socket of their own.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return advice.On(fmt.Errorf("others may write to the state directory %q", dir), fmt.Sprintf("chmod go-w %q", dir))
	}
	return nil
}

// lock takes the lock file, which stays, and returns what gives it back. The lock ends with the process.
func lock(path, _ string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err = ondisk.TryLock(f); errors.Is(err, ondisk.ErrHeld) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
