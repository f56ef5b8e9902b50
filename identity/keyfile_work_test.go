//go:build !race

package identity

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
)

// TestSealedKeyFileTakesRealWork is the one test that pays for the work factor of the product, which the race detector
// makes five times as dear.
func TestSealedKeyFileTakesRealWork(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteKeyFile(path, generate(t), testPassphrase); err != nil {
		t.Fatal(err)
	}
	header := unarmor(t, readFile(t, path))
	if want := fmt.Appendf(nil, " %d\n", 18); !bytes.Contains(header[:200], want) {
		t.Errorf("the work factor is not 18: %q", header[:200])
	}
}
