package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arch is what a filter has to know of a processor. Where a machine also runs the programs of an older kind, those
// get no sockets at all: the arguments of socketcall lie in memory, which a filter cannot see.
type arch struct {
	native uint32
	old    uint32   // 0 if there is none
	calls  []uint32 // of the old kind, that make sockets or queues that do
	limits uint32   // prlimit64 of the old kind
}

var arches = map[string]arch{
	"amd64":   {unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, []uint32{102, 359, 360, 425}, 340}, // socketcall, socket, socketpair, io_uring_setup
	"arm64":   {unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, []uint32{102, 281, 288, 425}, 369},
	"riscv64": {unix.AUDIT_ARCH_RISCV64, 0, nil, 0},
	"loong64": {unix.AUDIT_ARCH_LOONGARCH64, 0, nil, 0},
}

// Offsets in the kernel's struct seccomp_data, on processors that put the low byte first.
const (
	atCall   = 0
	atArch   = 4
	atFirst  = 16 // the low half of the first argument
	atSecond = 24
)

const (
	pass = unix.SECCOMP_RET_ALLOW
	deny = unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)
	x32  = 0x40000000 // calls of the x32 kind on amd64
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func verdict(v uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
}

// when ends with the verdict if what was loaded is k.
func when(k, v uint32) []unix.SockFilter {
	return []unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: k}, verdict(v)}
}

// unless skips the block if what was loaded is k.
func unless(k uint32, block ...unix.SockFilter) []unix.SockFilter {
	return append([]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(block)), K: k}}, block...)
}

// in goes through the block if what was loaded is k. The block ends with a verdict.
func in(k uint32, block ...unix.SockFilter) []unix.SockFilter {
	return append([]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(block)), K: k}}, block...)
}

// filter lets all calls pass but those that make sockets of other families, and those to io_uring, which makes
// sockets without a call, and those that set the limits of other processes: one with no processor time left is killed.
func (a arch) filter(network, unixSockets bool) []unix.SockFilter {
	f := append([]unix.SockFilter{load(atArch)}, unless(a.native, a.foreign()...)...)
	f = append(f, load(atCall))
	if a.native == unix.AUDIT_ARCH_X86_64 {
		f = append(f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: x32}, verdict(deny))
	}
	f = append(f, when(unix.SYS_IO_URING_SETUP, deny)...)
	f = append(f, in(unix.SYS_PRLIMIT64, own()...)...)
	f = append(f, in(unix.SYS_SOCKETPAIR, pairs(unixSockets)...)...)
	f = append(append(f, unless(unix.SYS_SOCKET, verdict(pass))...), load(atFirst))
	for _, family := range families(network, unixSockets) {
		f = append(f, when(family, pass)...)
	}
	return append(f, verdict(deny))
}

// own ends with the verdict on a call whose first argument is a process, 0 being the caller.
func own() []unix.SockFilter {
	return append(append([]unix.SockFilter{load(atFirst)}, when(0, pass)...), verdict(deny))
}

// pairs ends with the verdict on a pair of sockets. Pairs of this machine's are fine if they can send to nobody but each
// other: streams and packets in sequence. Datagrams, and what the kernel makes datagrams of (SOCK_RAW), go anywhere.
func pairs(unixSockets bool) []unix.SockFilter {
	f := append([]unix.SockFilter{load(atFirst)}, unless(unix.AF_UNIX, verdict(deny))...)
	if unixSockets {
		return append(f, verdict(pass))
	}
	const kinds = 0xf // the rest are flags
	f = append(f, load(atSecond), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: kinds})
	f = append(append(f, when(unix.SOCK_STREAM, pass)...), when(unix.SOCK_SEQPACKET, pass)...)
	return append(f, verdict(deny))
}

func (a arch) foreign() []unix.SockFilter {
	if a.old == 0 {
		return []unix.SockFilter{verdict(deny)}
	}
	f := append(unless(a.old, verdict(deny)), load(atCall))
	for _, call := range a.calls {
		f = append(f, when(call, deny)...)
	}
	f = append(f, in(a.limits, own()...)...)
	return append(f, verdict(pass))
}

func families(network, unixSockets bool) []uint32 {
	var all []uint32
	if network {
		all = append(all, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK)
	}
	if unixSockets {
		all = append(all, unix.AF_UNIX)
	}
	return all
}

// filterSockets puts the filter up for this thread.
func filterSockets(network, unixSockets bool) error {
	a, known := arches[runtime.GOARCH]
	if !known {
		return errors.New("no filter is written for " + runtime.GOARCH)
	}
	f := a.filter(network, unixSockets)
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
