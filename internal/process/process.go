// Package process keeps hold of programs and of all that they start: a program leads a session and a process
// group of its own, without a terminal, and the group is killed as one.
//
// A process that leaves the group survives. It works on Unix; elsewhere [Group.Start] returns an error that wraps
// [errors.ErrUnsupported].
package process

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// Group is the process group of one running program. The zero value is ready for use, once. Signal and Kill may
// be called from many goroutines, at any time, and often.
type Group struct {
	// DieWithParent has the kernel kill the leader when the thread that started it ends, where the kernel is
	// Linux; elsewhere it does nothing. Threads end when the process is killed, and at other times, so the
	// goroutine that calls Start has to be locked to its thread until Wait has returned.
	DieWithParent bool

	mu   sync.Mutex
	pid  int  // of the leader, and so of the group; 0 before the start
	gone bool // the leader has been reaped, and its number may be another's
}

// Start starts cmd as the leader of a new session and group. It overwrites cmd.SysProcAttr and then calls start, or
// cmd.Start if that is nil.
func (g *Group) Start(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	g.mu.Lock() // what the program writes may already call for Kill
	defer g.mu.Unlock()
	if err := g.prepare(cmd); err != nil {
		return err
	}
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return err
	}
	g.pid = cmd.Process.Pid
	return nil
}

// Wait waits for the leader's exit and kills what is left of the group. Its error is that of [exec.Cmd.Wait].
func (g *Group) Wait(cmd *exec.Cmd) error { return g.wait(cmd) }

// Kill ends all processes of the group. Before Start, and once Wait has returned, it does nothing.
func (g *Group) Kill() { g.Signal(syscall.SIGKILL) }

// Signal sends a signal to all processes of the group. Before Start, and once Wait has returned, it does nothing.
func (g *Group) Signal(s syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid != 0 && !g.gone {
		g.signal(s)
	}
}

// leave makes Kill do nothing from now on.
func (g *Group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
}

// Describe says how a program ended, from the error of Wait.
func Describe(state *os.ProcessState, err error) string {
	switch {
	case state == nil:
		return fmt.Sprint(err)
	case state.Success():
		return "exit status 0"
	default:
		return state.String()
	}
}
