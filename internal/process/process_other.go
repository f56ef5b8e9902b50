//go:build !unix

package process

import (
	"errors"
	"os/exec"
	"syscall"
)

// Supported reports whether this system has process groups.
const Supported = false

func (g *Group) prepare(*exec.Cmd) error  { return errors.ErrUnsupported }
func (g *Group) wait(cmd *exec.Cmd) error { return cmd.Wait() }
func (g *Group) signal(syscall.Signal)    {}
