package keywork_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/keywork"
)

func TestWorkIsStandardUnlessItIsLowered(t *testing.T) {
	if keywork.Log2() != keywork.Standard || keywork.Standard < 18 {
		t.Fatalf("the work is 2^%d", keywork.Log2())
	}
	keywork.UnsafeLower(10)
	t.Cleanup(func() { keywork.UnsafeLower(keywork.Standard) })
	if keywork.Log2() != 10 {
		t.Errorf("the work is 2^%d after it was lowered to 2^10", keywork.Log2())
	}
}

// TestNoProgramLowersTheWork has the package imported by identity, which only asks, and by tests.
func TestNoProgramLowersTheWork(t *testing.T) {
	asked := false
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if !bytes.Contains(source, []byte(`converge/internal/keywork"`)) {
			return err
		}
		asked = true
		if filepath.Base(filepath.Dir(path)) != "identity" || bytes.Contains(source, []byte("UnsafeLower")) {
			t.Errorf("%s may lower it", path)
		}
		return err
	})
	if err != nil || !asked {
		t.Errorf("identity does not ask for it, or: %v", err)
	}
}
