//go:build unix

package process

import (
	"os/exec"
	"syscall"
)

// Supported reports whether this system has process groups.
const Supported = true

func (g *Group) prepare(cmd *exec.Cmd) error {
	// A session is a group too, and has no terminal that a program could read from or type into.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if g.DieWithParent {
		dieWithParent(cmd.SysProcAttr)
	}
	return nil
}

func (g *Group) signal(s syscall.Signal) {
	_ = syscall.Kill(-g.pid, s) // fails if none is left
}
