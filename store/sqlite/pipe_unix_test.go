//go:build unix

package sqlite_test

import (
	"os"
	"syscall"
	"testing"
)

func namedPipe(t *testing.T, path string) {
	must(t, os.Remove(path))
	must(t, syscall.Mkfifo(path, 0o600))
}
