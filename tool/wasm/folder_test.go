package wasm

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tetratelabs/wazero/experimental/sys"
)

// mounted is a directory with a file, as a module that may write to it sees it.
func mounted(t *testing.T, written int64) (*folder, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "kept")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{written: written}
	t.Cleanup(func() {
		s.close()
		root.Close()
	})
	return &folder{root: root, write: true, session: s}, file
}

func TestEmptyFilesAndFoldersAreBounded(t *testing.T) {
	t.Parallel()
	d, _ := mounted(t, maxWritten-2*entrySize)
	if code := d.Mkdir("/a", 0); code != 0 {
		t.Error(code)
	}
	if f, code := d.OpenFile("/b", sys.O_CREAT|sys.O_WRONLY, 0); code != 0 || f.Close() != 0 {
		t.Error(code)
	}
	if code := d.Mkdir("/c", 0); code != sys.EIO {
		t.Errorf("a folder beyond the bound: %v", code)
	}
	if _, code := d.OpenFile("/d", sys.O_CREAT|sys.O_WRONLY, 0); code != sys.EIO {
		t.Errorf("a file beyond the bound: %v", code)
	}
	for _, name := range []string{"c", "d"} {
		if _, err := d.root.Stat(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

// A file that cannot be opened, since too many are, is not truncated either.
func TestTooManyOpenFilesChangeNothing(t *testing.T) {
	t.Parallel()
	d, file := mounted(t, 0)
	for i := range maxOpen {
		if _, code := d.OpenFile("/"+strconv.Itoa(i), sys.O_CREAT|sys.O_RDWR, 0); code != 0 {
			t.Fatal(i, code)
		}
	}
	if _, code := d.OpenFile("/kept", sys.O_TRUNC|sys.O_WRONLY, 0); code != sys.EAGAIN {
		t.Errorf("a file beyond the bound: %v", code)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "text" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}
