package sandbox

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Do calls fn on a thread that has given up what the policy does not grant. fn starts a program by start, and should
// return when that has ended: the program is killed if the thread, or this process, ends before. Whatever else
// fn does, or anything that it calls, is restricted as well. Other goroutines are not.
//
// The error is that of fn, or says which protection could not be put up; then fn was not called.
func (p *Policy) Do(fn func(start func(*exec.Cmd) error) error) error {
	if p == nil {
		return fn((*exec.Cmd).Start)
	}
	have := support()
	rules, err := p.ruleset(have)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	defer closeRuleset(rules)
	return onThread(func() error {
		if err := p.restrict(have, rules); err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
		return fn(func(cmd *exec.Cmd) error { return p.start(have, cmd) })
	})
}

// onThread calls fn on a thread that ends afterwards. That is never the first one, which the runtime cannot end and
// by which others see this process.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- fn()
			return
		}
		err := onThread(fn) // this goroutine has the first thread, so that one gets another
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// restrict gives up rights of this thread for good.
func (p *Policy) restrict(have *supported, rules int) error {
	if have.privileges == nil {
		if err := noNewPrivileges(); err != nil {
			return err
		}
	}
	if rules >= 0 {
		if err := enforce(rules); err != nil {
			return err
		}
	}
	if have.capabilities == nil {
		if err := dropCapabilities(); err != nil {
			return err
		}
	}
	if have.sockets == nil {
		return filterSockets(p.Network, p.UnixSockets)
	}
	return nil
}

func noNewPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// kept are the capabilities that root keeps: those over files, since which files is for Landlock to say.
const kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// dropCapabilities leaves no capability but those kept. Together with no_new_privs, no program brings them back.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	permitted := data[0].Permitted & kept
	data = [2]unix.CapUserData{{Effective: permitted, Permitted: permitted}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// start starts cmd, and returns once its limits are in force.
func (p *Policy) start(have *supported, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // of this thread
	cmd.SysProcAttr.Ptrace = have.limits == nil
	if err := cmd.Start(); err != nil {
		return err
	}
	if have.limits != nil {
		return nil
	}
	if err := p.Limits.enforce(cmd.Process.Pid); err != nil {
		return errors.Join(fmt.Errorf("sandbox: limits: %w", err), end(cmd))
	}
	return nil
}

// end kills and reaps a program that is not to run. Its status is of no interest.
func end(cmd *exec.Cmd) error {
	err := cmd.Process.Kill()
	_ = cmd.Wait()
	return err
}
