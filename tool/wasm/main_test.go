package wasm_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/wasm"
)

var (
	scratch string
	cache   = wasm.NewCache()
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
	it, err := wasm.New(c)
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
