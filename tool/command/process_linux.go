package command

import (
	"errors"
	"os/exec"

	"golang.org/x/sys/unix"
)

// wait waits for the leader's exit, kills what is left of the group, and only then reaps the leader:
// as long as it is a zombie, its number is nobody else's.
func (g *group) wait(cmd *exec.Cmd) error {
	for errors.Is(unix.Waitid(unix.P_PID, g.pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	g.kill()
	g.leave()
	return cmd.Wait()
}
