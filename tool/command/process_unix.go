//go:build unix

package command

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	processes "github.com/converge-agents/converge/internal/process"
	"github.com/converge-agents/converge/tool"
)

const supported = true

// waitDelay bounds the wait for output once the leader has exited and its group was killed, since a
// process that left the group may hold the pipes open.
const waitDelay = time.Second

// run starts the process, waits for its end, and leaves nothing behind that stayed in its group.
func (p *process) run(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("not started: %w", context.Cause(ctx))
	}
	var g processes.Group
	stdout := &capped{limit: p.maxOutput, full: g.Kill}
	stderr := &tail{limit: p.maxStderr}
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.stdin, stdout, stderr
	cmd.WaitDelay = waitDelay
	var started bool
	err := p.sandbox.Do(func(start func(*exec.Cmd) error) error {
		if err := g.Start(cmd, start); err != nil {
			return err
		}
		started = true
		defer context.AfterFunc(ctx, g.Kill)()
		return g.Wait(cmd)
	})
	switch {
	case !started:
		return nil, p.startError(err)
	case stdout.over:
		return nil, fmt.Errorf("%w: more than %d bytes", tool.ErrOutputTooLarge, p.maxOutput)
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("killed: %w", context.Cause(ctx))
	case err != nil:
		return nil, p.exitError(err, string(stderr.kept))
	default:
		return stdout.buffer.Bytes(), nil
	}
}

func (p *process) startError(err error) error {
	switch {
	case errors.Is(err, syscall.E2BIG):
		return invalid("too long for the arguments of a program")
	case errors.Is(err, syscall.EACCES) && p.sandbox != nil:
		return fmt.Errorf("start: %w: is what runs it, such as the interpreter of a script, granted by Read?", syscall.EACCES)
	default:
		return fmt.Errorf("start: %w", err)
	}
}

func (p *process) exitError(err error, stderr string) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case ok:
		e := &ExitError{Program: p.path, Code: exit.ExitCode(), Stderr: stderr}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			e.Signal = status.Signal()
		}
		return e
	case errors.Is(err, exec.ErrWaitDelay):
		return fmt.Errorf("program %q: it has exited, but a process that left its group holds the output open", filepath.Base(p.path))
	default:
		return fmt.Errorf("program %q: %w", filepath.Base(p.path), err)
	}
}
