//go:build unix && !linux

package command

import "os/exec"

// wait waits for the leader's exit and kills what is left of the group. The leader has been reaped by
// then; its number is in use as long as the group is not empty.
func (g *group) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	g.kill()
	g.leave()
	return err
}
