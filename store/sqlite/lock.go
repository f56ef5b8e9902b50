package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// acquire takes the lock on a database, which the system releases when the process ends, however it ends.
// The file stays: to remove it would let two processes lock two files of one name.
func acquire(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, access(err)
	}
	err = ondisk.Lock(ctx, f)
	switch {
	case errors.Is(err, ondisk.ErrHeld):
		defer f.Close()
		return nil, advice.On(fmt.Errorf("%w: %s has locked %q", ErrLocked, holder(f), f.Name()), hintLocked)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", f.Name(), err)
	}
	if err := sign(f); err != nil {
		f.Close()
		return nil, access(err)
	}
	return f, nil
}

// sign leaves word of who has the lock.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

func holder(f *os.File) string {
	var text [20]byte
	n, _ := f.ReadAt(text[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return "a process"
	}
	if pid == os.Getpid() {
		return "this process"
	}
	return fmt.Sprintf("process %d", pid)
}
