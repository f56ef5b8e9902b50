package command_test

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/converge-agents/converge/internal/held"
)

func TestHundredHungProgramsLeaveNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	path := pipe(t)
	it := newTool(t, writing(shell(hanging(path)), path))
	runTool(t, newTool(t, shell("exit 0")), nil) // what the runtime opens once is open now
	before := held.Now(t)

	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range hungPrograms {
		calls.Go(func() {
			if _, err := it.Run(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		})
	}
	processes, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(processes, make([]byte, hungPrograms)); err != nil { // all hang
		t.Fatal(err)
	}
	most := held.Now(t)
	cancel()
	calls.Wait()
	if _, err := io.ReadAll(processes); err != nil { // ends when all are dead, grandchildren too
		t.Error(err)
	}
	processes.Close()

	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("children are left: %v", err)
	}
	t.Logf("%d programs hang: before, %v; meanwhile, %v; given up, %v", hungPrograms, before, most, before.AtMost(t))
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("%d directories are left", len(left))
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
