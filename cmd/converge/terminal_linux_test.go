package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal: what the process writes to tty comes out of master.
type terminal struct {
	t           *testing.T
	master, tty *os.File
	shown       bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	check(t, err)
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	check(t, err)
	var number int
	var unlockErr, numberErr error
	check(t, raw.Control(func(fd uintptr) {
		unlockErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		number, numberErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
	}))
	check(t, errors.Join(unlockErr, numberErr))
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	check(t, err)
	t.Cleanup(func() { tty.Close() })
	return &terminal{t: t, master: master, tty: tty}
}

// await reads until the terminal shows the text.
func (x *terminal) await(text string) {
	x.t.Helper()
	check(x.t, x.master.SetReadDeadline(time.Now().Add(patience)))
	for !strings.Contains(x.shown.String(), text) {
		buffer := make([]byte, 1024)
		n, err := x.master.Read(buffer)
		x.shown.Write(buffer[:n])
		if err != nil {
			x.t.Fatalf("no %q on the terminal: %v:\n%q", text, err, x.shown.String())
		}
	}
}

// rest reads until every process has closed the terminal.
func (x *terminal) rest() {
	x.t.Helper()
	check(x.t, x.master.SetReadDeadline(time.Now().Add(patience)))
	_, err := x.shown.ReadFrom(x.master)
	if !errors.Is(err, syscall.EIO) { // which is how Linux says it
		check(x.t, err)
	}
}

// screen returns what is left to see of lines that were drawn over.
func (x *terminal) screen() string {
	lines := strings.Split(strings.ReplaceAll(x.shown.String(), "\r\n", "\n"), "\n")
	for i, line := range lines {
		if erased := strings.LastIndex(line, eraseLine); erased >= 0 {
			lines[i] = line[erased+len(eraseLine):]
		}
	}
	return strings.Join(lines, "\n")
}

func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	x := newTerminal(t)
	p := newProcess(t, g.config, "--exit-when-done")
	p.cmd.Stderr = x.tty
	check(t, p.cmd.Start())
	check(t, x.tty.Close())

	x.await(eraseLine + "0 of 2 tasks done, 0 failed, ")
	g.open()
	g.awaitStart()
	g.open()
	x.await(eraseLine + "2 of 2 tasks done, 0 failed, ")
	x.rest()
	p.end(exitOK)
	p.wantOutput(`\A^task +task result +agents$`, `^tasks +2 submitted, 2 completed, 0 failed$`)
	if strings.Contains(p.stdout.String(), "\x1b") {
		t.Errorf("the report holds control characters:\n%q", p.stdout.String())
	}
	screen := x.screen()
	if strings.Contains(screen, "tasks done") || strings.Count(screen, "agent is running") != 2 {
		t.Errorf("the progress line is left, or log lines are not:\n%s", screen)
	}
}

func TestStoppingOnATerminal(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	x := newTerminal(t)
	p := newProcess(t, g.config, "--exit-when-done")
	p.cmd.Stderr = x.tty
	check(t, p.cmd.Start())
	check(t, x.tty.Close())

	g.awaitStart()
	p.signal(os.Interrupt)
	x.await(eraseLine + "stopping: running tools get time to finish; interrupt again to end at once")
	x.await(`msg="agents are stopping`)
	g.open()
	x.rest()
	p.end(exitInterrupted)
	lines := strings.Split(strings.TrimSpace(x.screen()), "\n")
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("the terminal shows %q among the log", line)
		}
	}
	if got, want := lines[len(lines)-1], "converge: interrupted: 1 task had not ended"; got != want {
		t.Errorf("the terminal shows %q at the end, want %q", got, want)
	}
}
