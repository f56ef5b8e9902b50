// Package sandbox starts programs that may do less than this process: read and write the files that are
// granted and no others, reach no network, gain no privileges, and use no more than their limits.
//
// On Linux this is done by attributes of a thread that its children inherit (no_new_privs, Landlock, seccomp,
// capabilities): a thread gives up its rights, starts the program, and ends with it. The limits are set while the
// program stands still at its first instruction, which ptrace brings about. This process itself keeps all its rights,
// and there is no helper program.
//
// What the kernel does not offer is not in force, and [Policy.Protections] says so. Elsewhere than on Linux that is
// everything.
package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Policy says what programs may do. It must not be changed once it is in use; its methods are safe for concurrent
// use. A nil Policy restricts nothing.
type Policy struct {
	// Read are files and folders that may be read and executed, and Write those that may be changed too, both with all
	// below them. What is [System] may be read as well. They have to exist whenever a program starts, and to be
	// absolute and without symbolic links, see [Policy.Resolve]: where one has come since, nothing starts.
	Read, Write []string
	// Network allows IPv4, IPv6 and Netlink sockets, and UnixSockets those of this machine. Without, a program has
	// no sockets but pairs of its own.
	Network, UnixSockets bool
	// Limits hold for each process, but Processes, which counts all of the user.
	Limits Limits

	linked []string // like Read, but links are followed
}

// Resolve puts what symbolic links lead to now in the place of what is granted. Whoever may change a folder later, a
// program that was granted it too, cannot have what is granted lead elsewhere.
func (p *Policy) Resolve() {
	for _, paths := range [][]string{p.Read, p.Write} {
		for i, path := range paths {
			paths[i] = resolved(path)
		}
	}
}

// resolved returns a path without symbolic links, as far as there is something.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// Limits bound what a process may use. 0 is no limit; a limit above that of this process is that of this process.
type Limits struct {
	CPU          time.Duration // of processor time, in whole seconds, rounded up; then SIGXCPU
	Memory       int64         // bytes of private writable memory; then allocations fail
	AddressSpace int64         // bytes of all that is mapped
	FileSize     int64         // bytes up to which a file may be written; then SIGXFSZ
	OpenFiles    int           // descriptors
	Processes    int           // processes and threads of the user that runs this process, outside the tool too; not for root
}

// Protection is one thing that a program is kept from.
type Protection struct {
	Name    string // a word or two, such as "files"
	InForce bool
	Detail  string // by what, or why not
}

// String is the name and, in brackets, the detail.
func (p Protection) String() string { return fmt.Sprintf("%s (%s)", p.Name, p.Detail) }

// The names of protections.
const (
	Files        = "files"
	Network      = "network"
	UnixSockets  = "unix sockets"
	Signals      = "signals"
	Privileges   = "no new privileges"
	Capabilities = "capabilities"
	ResourceUse  = "limits"
	Processes    = "processes"
)

// Replaced returns the limits with those of o that are set in the place of its own.
func (l Limits) Replaced(o Limits) Limits {
	pick(&l.CPU, o.CPU)
	pick(&l.Memory, o.Memory)
	pick(&l.AddressSpace, o.AddressSpace)
	pick(&l.FileSize, o.FileSize)
	pick(&l.OpenFiles, o.OpenFiles)
	pick(&l.Processes, o.Processes)
	return l
}

func pick[T ~int | ~int64](to *T, from T) {
	if from != 0 {
		*to = from
	}
}

// System are the files and folders that every program may read and execute, as far as they are there: programs,
// libraries, and what they need to know of the machine. There is nothing of users in it, nor a secret.
var System = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
	"/nix/store", "/gnu/store", "/run/current-system/sw",
	"/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/gitconfig", "/etc/ld.so.cache", "/etc/ld.so.conf",
	"/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/locale.alias", "/etc/localtime", "/etc/magic", "/etc/mime.types",
	"/etc/nsswitch.conf", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
	"/etc/terminfo", "/etc/timezone",
	"/dev/random", "/dev/urandom",
	"/proc/cpuinfo", "/proc/filesystems", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/uptime", "/proc/version",
	"/proc/sys/kernel/cap_last_cap", "/proc/sys/kernel/ngroups_max", "/proc/sys/kernel/osrelease",
	"/proc/sys/kernel/pid_max", "/proc/sys/vm/overcommit_memory",
	"/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage",
}

// resolver are the files that say where names are looked up; for programs that have the network.
var resolver = []string{"/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/protocols", "/etc/resolv.conf", "/etc/services"}

// devices may be written to.
var devices = []string{os.DevNull, "/dev/zero", "/dev/full"}
