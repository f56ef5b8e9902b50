//go:build unix

package network_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/converge-agents/converge/network"
)

// hanging is a network whose one tool says that it has started and then hangs.
func hanging(t *testing.T, o network.Options) (n *network.Network, started *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "started")
	check(t, unix.Mkfifo(path, 0o600))
	started, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0) // not to wait for the other end
	check(t, err)
	t.Cleanup(func() { started.Close() })
	check(t, started.SetReadDeadline(time.Now().Add(patience)))
	return build(t, fmt.Sprintf(`
network: hanging
tools:
  hang:
    command: [sh, -c, 'echo $$ > "$STARTED"; exec sleep 600']
    env: {STARTED: %[1]q}
    write: [%[1]q]
    pass_env: [PATH]
agents:
  - {name: worker, kind: worker, capabilities: {hang: hang}, tools: [hang], tool_timeout: 10m}
  - {name: coordinator, kind: coordinator, tasks: [{capability: hang}]}
`, path), o), started
}

// pid reads the process ID that a tool has written.
func pid(t *testing.T, started *os.File) (id int) {
	t.Helper()
	_, err := fmt.Fscan(started, &id)
	check(t, err)
	return id
}

func TestAbortKillsTools(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	n, started := hanging(t, network.Options{})
	ran := make(chan error, 1)
	go func() { ran <- n.Run(t.Context()) }()
	tool := pid(t, started)
	n.Abort()
	n.Abort()
	check(t, <-ran)
	wantGone(t, tool)
}

func TestToolsThatOutlastTheDrainAreKilled(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	n, started := hanging(t, network.Options{DrainTimeout: 50 * time.Millisecond})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	tool := pid(t, started)
	stop()
	check(t, <-ran)
	wantGone(t, tool)
	if r := n.Report(); r.Unfinished != 1 || r.Tasks.Failed != 0 {
		t.Errorf("report %+v, want a task that was given back", r)
	}
}

// wantGone checks that a tool has ended, and its working directory with it.
func wantGone(t *testing.T, tool int) {
	t.Helper()
	if err := syscall.Kill(tool, 0); err != syscall.ESRCH {
		t.Errorf("the tool runs on: %v", err)
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "converge-tool-*"))
	check(t, err)
	if len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
}

// TestStderrIsLoggedOnlyIfAskedFor: what a program says may hold what is in the params.
func TestStderrIsLoggedOnlyIfAskedFor(t *testing.T) {
	for _, asked := range []bool{false, true} {
		var log strings.Builder
		n := build(t, fmt.Sprintf(`
network: stderr
tools:
  fail: {command: [sh, -c, 'echo "cannot open hunter2" >&2; exit 3'], log_stderr: %t}
agents:
  - {name: worker, kind: worker, capabilities: {fail: fail}, tools: [fail]}
  - {name: coordinator, kind: coordinator, tasks: [{capability: fail}]}
`, asked), network.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if r := runJob(t, n); r.Tasks.Failed != 1 {
			t.Errorf("report %+v, want one task that failed", r)
		}
		if said := strings.Contains(log.String(), "hunter2"); said != asked {
			t.Errorf("log_stderr %t: the log has what the program said: %t\n%s", asked, said, log.String())
		}
	}
}
