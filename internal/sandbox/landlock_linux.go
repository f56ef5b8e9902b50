package sandbox

import (
	"errors"
	"fmt"
	"os"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Rights, as sets of Landlock's.
const (
	readFile  = landlock.AccessFSExecute | landlock.AccessFSReadFile
	readDir   = readFile | landlock.AccessFSReadDir
	writeFile = readFile | landlock.AccessFSWriteFile | landlock.AccessFSTruncate
	writeDir  = readDir | writeFile | landlock.AccessFSRemoveDir | landlock.AccessFSRemoveFile | landlock.AccessFSMakeDir |
		landlock.AccessFSMakeReg | landlock.AccessFSMakeSock | landlock.AccessFSMakeFifo | landlock.AccessFSMakeSym |
		landlock.AccessFSRefer
)

// handled returns what a ruleset of that version denies unless a rule grants it.
func (p *Policy) handled(have *supported) landlock.RulesetAttr {
	attr := landlock.RulesetAttr{HandledAccessFS: landlock.AccessFSMakeSym<<1 - 1}
	for abi, right := range map[int]uint64{2: landlock.AccessFSRefer, 3: landlock.AccessFSTruncate, 5: landlock.AccessFSIoctlDev, 9: landlock.AccessFSResolveUnix} {
		if have.abi >= abi && !(p.UnixSockets && right == landlock.AccessFSResolveUnix) {
			attr.HandledAccessFS |= right
		}
	}
	if have.abi >= 4 && !p.Network {
		attr.HandledAccessNet = landlock.AccessNetBindTCP | landlock.AccessNetConnectTCP
	}
	if have.abi >= 6 && !p.UnixSockets {
		attr.Scoped |= landlock.ScopeAbstractUnixSocket
	}
	if have.signals == nil {
		attr.Scoped |= landlock.ScopeSignal
	}
	return attr
}

// ruleset makes the ruleset of the policy, or returns -1 where there is no Landlock.
func (p *Policy) ruleset(have *supported) (fd int, err error) {
	if have.landlock != nil {
		return -1, nil
	}
	attr := p.handled(have)
	fd, err = landlock.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return -1, fmt.Errorf("landlock: make a ruleset: %w", err)
	}
	if err := p.grant(fd, attr.HandledAccessFS); err != nil {
		closeRuleset(fd)
		return -1, err
	}
	return fd, nil
}

func closeRuleset(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

func (p *Policy) grant(fd int, handled uint64) error {
	system := System
	if p.Network {
		system = append(system[:len(system):len(system)], resolver...)
	}
	for _, g := range []struct {
		paths       []string
		dirs, files uint64
		links       uint64 // how they are resolved
		optional    bool
	}{
		{system, readDir, readFile, 0, true},
		{devices, 0, writeFile, 0, true},
		{p.linked, readDir, readFile, 0, false},
		{p.Read, readDir, readFile, unix.RESOLVE_NO_SYMLINKS, false},
		{p.Write, writeDir, writeFile, unix.RESOLVE_NO_SYMLINKS, false},
	} {
		for _, path := range g.paths {
			err := allow(fd, path, g.links, g.dirs&handled, g.files&handled)
			if err != nil && !(g.optional && isMissing(err)) {
				return fmt.Errorf("landlock: grant %q: %w", path, err)
			}
		}
	}
	return nil
}

func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOTDIR)
}

// allow grants rights over what path leads to: those for a folder and all below, or those for a file. Every kernel that
// has Landlock has openat2.
func allow(ruleset int, path string, links, dirs, files uint64) error {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: links})
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("a symbolic link is there now, which is not followed: %w", err)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return err
	}
	rights := files
	if info.Mode&unix.S_IFMT == unix.S_IFDIR {
		rights = dirs
	}
	return landlock.LandlockAddPathBeneathRule(ruleset, &landlock.PathBeneathAttr{ParentFd: fd, AllowedAccess: rights}, 0)
}

func enforce(ruleset int) error {
	if err := landlock.LandlockRestrictSelf(ruleset, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}
