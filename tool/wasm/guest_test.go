//go:build !race

// A module that Go's compiler makes is so large that it takes the race detector a minute to watch its translation. CI
// runs this package a second time, without it.

package wasm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/tool/wasm"
)

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

func TestParamsComeInAndOutputGoesOut(t *testing.T) {
	t.Parallel()
	it := newTool(t, guestConfig(t, "echo"))
	for params, want := range map[string]string{"": "{}", `{"a": [1, "ü"]}`: `{"a": [1, "ü"]}`, `{"a":"` + strings.Repeat("x", 300_000) + `"}`: ""} {
		if got := mustRun(t, it, params); got != want && (want != "" || got != params) {
			t.Errorf("%.50q: output %.50q", params, got)
		}
	}
	c := guestConfig(t, "env", "{x}")
	c.Env = map[string]string{"B": "2", "A": "1"}
	if got := mustRun(t, newTool(t, c), ""); got != "it env {x} A=1 B=2" {
		t.Errorf("arguments and environment %q", got)
	}
}

func TestExitStatusAndStandardError(t *testing.T) {
	t.Parallel()
	c := guestConfig(t, "exit")
	c.MaxStderr = 10
	_, err := run(t, c, "")
	exit, ok := errors.AsType[*wasm.ExitError](err)
	if !ok || exit.Code != 7 || exit.Stderr != "xxxthe end" || err.Error() != "exit status 7" {
		t.Errorf("error %#v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := guestConfig(t, "hog")
	c.MaxMemory = 16 << 20
	_, err := run(t, c, "")
	if exit, ok := errors.AsType[*wasm.ExitError](err); !ok || exit.Code != 2 || !strings.Contains(exit.Stderr, "out of memory") && !strings.Contains(exit.Stderr, "goroutine") {
		t.Errorf("error %#v", err)
	}
}

func TestSleepIsStopped(t *testing.T) {
	t.Parallel()
	c := guestConfig(t, "sleep")
	c.Clock = true
	it := newTool(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := it.Run(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestClockAndRandomnessAreGranted(t *testing.T) {
	t.Parallel()
	clock := guestConfig(t, "clock")
	it := newTool(t, clock)
	first, second := mustRun(t, it, ""), mustRun(t, it, "")
	if first != second || !strings.HasPrefix(first, "1640995200 ") { // the first second of 2022
		t.Errorf("without a clock: %q, %q", first, second)
	}
	clock.Clock = true
	if got := mustRun(t, newTool(t, clock), ""); strings.HasPrefix(got, "1640995200") || !strings.HasSuffix(got, "true") {
		t.Errorf("with a clock: %q", got)
	}
	random := guestConfig(t, "random")
	it = newTool(t, random)
	if first, second := mustRun(t, it, ""), mustRun(t, it, ""); first != second {
		t.Errorf("without randomness: %q, %q", first, second)
	}
	random.Random = true
	it = newTool(t, random)
	if first, second := mustRun(t, it, ""), mustRun(t, it, ""); first == second {
		t.Errorf("with randomness: %q twice", first)
	}
}
