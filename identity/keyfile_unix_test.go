//go:build unix

package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestKeyFileIsWrittenForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteKeyFile(path, generate(t), nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestExposedKeyFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "my key"), filepath.Join(dir, "link")
	if err := errors.Join(WriteKeyFile(path, generate(t), nil), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, link} {
			_, err := ReadKeyFile(name, nil)
			if !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), fmt.Sprintf("chmod 600 %q", name)) {
				t.Errorf("mode %04o: %v", mode, err)
			}
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(path, nil); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

// TestFIFOIsNoKeyFile hangs if reading waits for somebody to write into the FIFO.
func TestFIFOIsNoKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFile(path, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}

func TestDeviceIsNoKeyFile(t *testing.T) {
	if _, err := ReadKeyFile(os.DevNull, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}
