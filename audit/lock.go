package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// acquire takes the lock on a folder, which the system releases when the process ends, however it ends.
func acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = ondisk.Lock(context.Background(), f)
	if errors.Is(err, ondisk.ErrHeld) {
		err = advice.On(fmt.Errorf("%w: %q", ErrLocked, dir), "one process at a time writes to a folder: stop the other one, or give this one a folder of its own (audit.dir)")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
