//go:build unix && !linux

package process

import (
	"os/exec"
	"syscall"
)

// wait waits for the leader's exit and kills what is left of the group. The leader has been reaped by
// then; its number is in use as long as the group is not empty.
func (g *Group) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	g.Kill()
	g.leave()
	return err
}

func dieWithParent(*syscall.SysProcAttr) {}
