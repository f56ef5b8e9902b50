package ondisk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/converge-agents/converge/internal/ondisk"
)

func TestReplaceLeavesOneWholeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, c := range []struct {
		text string
		mode fs.FileMode
	}{{"first, and longer", 0o644}, {"second", 0o600}} {
		if err := ondisk.Replace(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); string(data) != c.text || err != nil {
			t.Errorf("it holds %q, %v", data, err)
		}
		if mode := info.Mode().Perm(); mode != c.mode && runtime.GOOS != "windows" {
			t.Errorf("its mode is %04o, want %04o", mode, c.mode)
		}
	}
	if all, err := os.ReadDir(dir); len(all) != 1 || err != nil {
		t.Errorf("the folder holds %v, %v", all, err)
	}
}

func TestReplaceThatFailsLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ondisk.Replace(path, []byte("text"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if all, err := os.ReadDir(dir); len(all) != 1 || err != nil {
		t.Errorf("the folder holds %v, %v", all, err)
	}
}

func TestWithoutPathKeepsTheCause(t *testing.T) {
	_, err := os.Open(filepath.Join(t.TempDir(), "none"))
	if got := ondisk.WithoutPath(err); !errors.Is(got, fs.ErrNotExist) || got.Error() == err.Error() {
		t.Errorf("left is %v", got)
	}
	if got := ondisk.WithoutPath(fs.ErrClosed); got != fs.ErrClosed {
		t.Errorf("left is %v", got)
	}
}
