//go:build darwin || freebsd || linux || netbsd || openbsd || windows

package ondisk_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/converge-agents/converge/internal/ondisk"
)

func TestLockIsOnesUntilItsFileIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	if err := ondisk.Lock(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ondisk.Lock(over, second); !errors.Is(err, ondisk.ErrHeld) {
		t.Errorf("a lock that another has: %v", err)
	}
	first.Close()
	if err := ondisk.TryLock(second); err != nil {
		t.Errorf("a lock that was given back: %v", err)
	}
}
