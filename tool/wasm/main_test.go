package wasm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/wasm"
)

var (
	scratch string
	cache   = wasm.NewCache() // the guest is large
)

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "converge-test-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		cache.Close()
		os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// guest is testdata/guest, as Go's compiler makes it.
var guest = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "guest.wasm")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func guestConfig(t *testing.T, args ...string) wasm.Config {
	t.Helper()
	path, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	return wasm.Config{Name: "it", File: path, Args: args, Cache: cache}
}

// assembled is the configuration of a module that was assembled.
func assembled(t *testing.T, m module) wasm.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "it.wasm")
	if m.memory == 0 {
		m.memory = 1
	}
	if err := os.WriteFile(path, m.binary(), 0o600); err != nil {
		t.Fatal(err)
	}
	return wasm.Config{Name: "it", File: path}
}

func newTool(t *testing.T, c wasm.Config) *wasm.Tool {
	t.Helper()
	it, err := wasm.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := it.Close(); err != nil {
			t.Error(err)
		}
	})
	return it
}

func run(t *testing.T, c wasm.Config, params string) (string, error) {
	t.Helper()
	out, err := newTool(t, c).Run(t.Context(), json.RawMessage(params))
	return string(out.Data), err
}

func mustRun(t *testing.T, it tool.Tool, params string) string {
	t.Helper()
	out, err := it.Run(context.Background(), json.RawMessage(params))
	if err != nil {
		t.Fatal(err)
	}
	return string(out.Data)
}

func wantErr(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q lacks %q", err, text)
		}
	}
}
