package command_test

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHundredHungProgramsLeaveNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	path := pipe(t)
	it := newTool(t, writing(shell(hanging(path)), path))
	runTool(t, newTool(t, shell("exit 0")), nil) // what the runtime opens once is open now
	descriptors := openDescriptors(t)

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
	cancel()
	calls.Wait()
	if _, err := io.ReadAll(processes); err != nil { // ends when all are dead, grandchildren too
		t.Error(err)
	}
	processes.Close()

	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("children are left: %v", err)
	}
	if n := openDescriptors(t); n != descriptors {
		t.Errorf("%d descriptors are open, %d were before", n, descriptors)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("%d directories are left", len(left))
	}
	// That no goroutine is left is for goleak to say, in TestMain.
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
