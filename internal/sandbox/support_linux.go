package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// supported says what this kernel offers this process: nil, or why it does not.
type supported struct {
	abi          int // of Landlock; 0 if there is none
	landlock     error
	signals      error // that Landlock keeps them in, without keeping threads of this process from each other
	privileges   error
	capabilities error
	sockets      error
	limits       error
}

// support finds out by doing it, once: on a thread that ends, with this program, which is stopped and killed before
// its first instruction.
var support = sync.OnceValue(func() *supported {
	have := &supported{}
	have.askLandlock()
	policy := &Policy{linked: []string{"/proc/self/exe"}}
	rules, err := policy.ruleset(have)
	if err != nil {
		have.landlock, rules = err, -1
	}
	defer closeRuleset(rules)
	_ = onThread(func() error { // what fails is kept in have
		have.try(policy, rules)
		return nil
	})
	return have
})

func (s *supported) try(p *Policy, rules int) {
	s.privileges = noNewPrivileges()
	if rules >= 0 {
		s.landlock = enforce(rules)
	}
	s.capabilities = s.privileges // without, a program brings them back
	if s.privileges == nil {
		s.capabilities = dropCapabilities()
	}
	s.sockets = filterSockets(false, false)
	s.limits = tryLimits()
	if s.landlock != nil {
		s.abi, s.signals = 0, s.landlock
	}
}

// askLandlock asks for the version, and whether the fault is mended that keeps one thread of a restricted process
// from signalling the others, as Go's runtime does.
func (s *supported) askLandlock() {
	const threadsMaySignal = 1 << 1 // erratum 2
	s.abi, s.landlock = landlock.LandlockGetABIVersion()
	switch {
	case errors.Is(s.landlock, unix.ENOSYS):
		s.landlock = errors.New("this kernel has no Landlock, which came with Linux 5.13")
	case errors.Is(s.landlock, unix.EOPNOTSUPP):
		s.landlock = errors.New("this kernel has Landlock switched off: add it to the boot parameter lsm=")
	case s.landlock != nil:
		s.landlock = fmt.Errorf("landlock: %w", s.landlock)
	}
	errata, _ := landlock.LandlockGetErrata() // 0 or below, if it cannot say
	switch {
	case s.landlock != nil:
		s.signals = s.landlock
	case s.abi < 6:
		s.signals = fmt.Errorf("signals came to Landlock with Linux 6.12, and this is ABI %d", s.abi)
	case errata < 0 || errata&threadsMaySignal == 0:
		s.signals = errors.New("in this kernel Landlock keeps threads of one process apart: erratum 2, mended in Linux 6.15")
	}
}

// tryLimits starts this program, sets limits, and kills it without having let it go.
func tryLimits() error {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Env: []string{}, SysProcAttr: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("programs cannot be stopped at their start: %w", err)
	}
	stopped, err := awaitStop(cmd.Process.Pid)
	if err == nil && !stopped {
		err = errors.New("a program did not stop at its start")
	}
	if err == nil {
		err = Limits{OpenFiles: 64}.setElsewhere(cmd.Process.Pid)
	}
	return errors.Join(err, end(cmd))
}

// Protections says what is in force for programs of the policy, as far as it asks for it.
func (p *Policy) Protections() []Protection {
	have := support()
	by := func(name string, why error, detail string) Protection {
		if why != nil {
			return Protection{name, false, why.Error()}
		}
		return Protection{name, true, detail}
	}
	all := []Protection{by(Files, have.landlock, fmt.Sprintf("Landlock ABI %d", have.abi))}
	if !p.Network {
		all = append(all, p.network(have))
	}
	if !p.UnixSockets {
		all = append(all, by(UnixSockets, have.sockets, "seccomp"))
	}
	return append(all,
		by(Signals, have.signals, "Landlock"),
		by(Privileges, have.privileges, "no_new_privs"),
		by(Capabilities, have.capabilities, "none but over files"),
		by(ResourceUse, have.limits, "rlimits of each process"),
		by(Processes, have.processes(p.Limits.Processes), fmt.Sprintf("%d of the user", p.Limits.Processes)))
}

func (p *Policy) network(have *supported) Protection {
	switch {
	case have.sockets == nil && have.abi >= 4:
		return Protection{Network, true, "seccomp, and Landlock for TCP"}
	case have.sockets == nil:
		return Protection{Network, true, "seccomp"}
	case have.abi >= 4:
		return Protection{Network, false, "TCP is, by Landlock, but nothing else: " + have.sockets.Error()}
	default:
		return Protection{Network, false, have.sockets.Error()}
	}
}

// processes says why their number is not bounded.
func (s *supported) processes(limit int) error {
	switch {
	case s.limits != nil:
		return s.limits
	case limit == 0:
		return errors.New("no limit is set")
	case os.Getuid() == 0:
		return errors.New("the user is root, whose processes the kernel does not count")
	default:
		return nil
	}
}
