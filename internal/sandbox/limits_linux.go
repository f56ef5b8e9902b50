package sandbox

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// enforce sets the limits of a child that stands still at its first instruction, and lets it go.
func (l Limits) enforce(pid int) error {
	if running, err := awaitStop(pid); err != nil || !running {
		return err // that it has been killed shows when it is waited for
	}
	if err := l.setElsewhere(pid); err != nil {
		return err
	}
	if err := unix.PtraceDetach(pid); err != nil && !errors.Is(err, unix.ESRCH) { // killed meanwhile
		return err
	}
	return nil
}

// awaitStop waits until a traced child stops after its exec. It takes no event, so that the exit of one that was
// killed is left to who waits for it.
func awaitStop(pid int) (stopped bool, err error) {
	const cldTrapped, cldStopped = 4, 5
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return info.Code == cldTrapped || info.Code == cldStopped, err
		}
	}
}

// setElsewhere is set for a thread that may change no limits but its own any more.
func (l Limits) setElsewhere(pid int) error {
	done := make(chan error)
	go func() { done <- l.set(pid) }()
	return <-done
}

func (l Limits) set(pid int) error {
	seconds := uint64((l.CPU + time.Second - 1) / time.Second)
	for _, limit := range []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_CPU, seconds},
		{unix.RLIMIT_DATA, uint64(l.Memory)},
		{unix.RLIMIT_AS, uint64(l.AddressSpace)},
		{unix.RLIMIT_FSIZE, uint64(l.FileSize)},
		{unix.RLIMIT_NOFILE, uint64(l.OpenFiles)},
		{unix.RLIMIT_NPROC, uint64(l.Processes)},
	} {
		if limit.value == 0 {
			continue
		}
		if err := lower(pid, limit.resource, limit.value); err != nil {
			return err
		}
	}
	return lower(pid, unix.RLIMIT_CORE, 0) // what was in memory stays out of files
}

// lower sets a limit, hard and soft, unless it is lower already.
func lower(pid, resource int, value uint64) error {
	var now unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &now); err != nil {
		return err
	}
	next := unix.Rlimit{Cur: min(value, now.Cur), Max: min(value, now.Max)}
	if resource == unix.RLIMIT_CPU { // the second between is for SIGXCPU, which says why; then comes SIGKILL
		next.Max = min(value+1, now.Max)
	}
	if resource == unix.RLIMIT_NOFILE { // those who raise their own soft limit may
		next.Cur = min(value, now.Max)
	}
	return unix.Prlimit(pid, resource, &next, nil)
}
