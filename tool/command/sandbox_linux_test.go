package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/converge-agents/converge/tool/command"
)

// attacks are what the helper tries, by name. Each returns what came of it; nil is success.
var attacks = map[string]func(args []string) error{
	"read":     func(args []string) error { _, err := os.ReadFile(args[0]); return err },
	"list":     func(args []string) error { _, err := os.ReadDir(args[0]); return err },
	"write":    func(args []string) error { return os.WriteFile(args[0], []byte("x"), 0o600) },
	"remove":   func(args []string) error { return os.Remove(args[0]) },
	"link":     func(args []string) error { return os.Link(args[0], "stolen") },
	"symlink":  func(args []string) error { return readThroughLink(args[0]) },
	"truncate": func(args []string) error { return os.Truncate(args[0], 0) },
	"mount":    func(args []string) error { return unix.Mount("none", args[0], "tmpfs", 0, "") },
	"chroot":   func(args []string) error { return unix.Chroot(args[0]) },
	"run":      func(args []string) error { return exec.Command(args[0], "helper", "noop").Run() },
	"kill":     func(args []string) error { pid, _ := strconv.Atoi(args[0]); return syscall.Kill(pid, syscall.SIGTERM) },
	"environ":  func(args []string) error { _, err := os.ReadFile("/proc/" + args[0] + "/environ"); return err },
	"ptrace":   func(args []string) error { pid, _ := strconv.Atoi(args[0]); return unix.PtraceAttach(pid) },
	"dial":     func(args []string) error { return dial(args[0], args[1]) },
	"listen":   func(args []string) error { return listen(args[0], args[1]) },
	"datagram": func(args []string) error { return datagram(args[0], unix.SOCK_DGRAM) },
	"raw":      func(args []string) error { return datagram(args[0], unix.SOCK_RAW) },
	"pair": func([]string) error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	},
	"packets": func([]string) error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0); return err },
	"tipc":    func([]string) error { _, err := unix.Socketpair(unix.AF_TIPC, unix.SOCK_RDM, 0); return err },
	"ring": func([]string) error {
		_, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		return toErr(errno)
	},
	"netlink": func([]string) error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
	"packet":  func([]string) error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
	"raise": func([]string) error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16})
	},
	"starve": func(args []string) error {
		pid, _ := strconv.Atoi(args[0])
		return unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 1, Max: 1}, nil) // then the kernel kills it
	},
	"memory": func([]string) error {
		_, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
	"shared": func([]string) error {
		_, err := unix.Mmap(-1, 0, math.MaxInt&(1<<42|1<<31-1)&^4095, unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
		return err
	},
	"files": func([]string) error { return openMany() },
	"noop":  func([]string) error { return nil },
}

func toErr(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func readThroughLink(target string) error {
	if err := os.Symlink(target, "link"); err != nil {
		return fmt.Errorf("symlink: %w", err)
	}
	_, err := os.ReadFile("link")
	return err
}

func dial(network, address string) error {
	c, err := net.Dial(network, address)
	if err == nil {
		c.Close()
	}
	return err
}

func listen(network, address string) error {
	l, err := net.Listen(network, address)
	if err == nil {
		l.Close()
	}
	return err
}

// datagram sends to a socket of this machine from one of a pair, for which no socket is to be made. Raw sockets of this
// machine are datagram sockets by another name.
func datagram(path string, kind int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
	if err != nil {
		return err
	}
	return unix.Sendto(pair[0], []byte("x"), 0, &unix.SockaddrUnix{Name: path})
}

func openMany() error {
	for range 1000 {
		if _, err := syscall.Dup(0); err != nil {
			return err
		}
	}
	return nil
}

func init() {
	helpers["attack"] = func(args []string) {
		result := "done"
		if err := attacks[args[0]](args[1:]); err != nil {
			result = err.Error()
		}
		print([]string{result})
	}
	helpers["status"] = func([]string) {
		text, _ := os.ReadFile("/proc/self/status")
		print([]string{string(text)})
	}
	helpers["user"] = func([]string) { print([]string{strconv.Itoa(os.Geteuid())}) }
	helpers["bomb"] = bomb
	helpers["leave"] = leave
	helpers["left"] = left
	helpers["owner"] = func(args []string) {
		c := command.Config{Name: "it", Program: "sh", Args: []string{"-c", "exec 3>" + args[0] + "; printf x >&3; exec sleep 1000"}, Write: args[:1], PassEnv: []string{"PATH"}}
		if it, err := command.New(c); err == nil {
			it.Run(context.Background(), nil)
		}
	}
}

// leave starts a process in a session of its own, which holds up nothing.
func leave(args []string) {
	child := exec.Command(os.Args[0], append([]string{"helper", "left"}, args...)...)
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	child.Start()
	ready, _ := os.OpenFile(args[0], os.O_RDWR, 0) // until the child has said something
	poll := []unix.PollFd{{Fd: int32(ready.Fd()), Events: unix.POLLIN}}
	unix.Poll(poll, 10_000)
}

func left(args []string) {
	session, _ := unix.Getsid(0)
	_, err := os.ReadFile(args[1])
	fifo, _ := os.OpenFile(args[0], os.O_WRONLY, 0)
	reason := "could read"
	if err != nil {
		reason = errors.Unwrap(err).Error()
	}
	fmt.Fprintln(fifo, session, os.Getpid(), reason)
	time.Sleep(time.Hour)
}

// attack runs one of the attacks in a tool, and returns what came of it.
func attack(t *testing.T, change func(*command.Config), args ...string) string {
	t.Helper()
	c := helperConfig(t, append([]string{"attack"}, args...)...)
	if change != nil {
		change(&c)
	}
	return list(t, newTool(t, c), nil)[0]
}

// needs skips the test where the kernel does not offer a protection, and fails it there if CONVERGE_REQUIRE_SERVICES is 1.
func needs(t *testing.T, names ...string) {
	t.Helper()
	for _, p := range newTool(t, helperConfig(t, "attack", "noop")).Protections() {
		if !slices.Contains(names, p.Name) || p.InForce {
			continue
		}
		if os.Getenv("CONVERGE_REQUIRE_SERVICES") == "1" {
			t.Fatalf("not in force: %s", p)
		}
		t.Skipf("not in force: %s", p)
	}
}

func secretFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("hunter2"), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

const denied = "permission denied"

func expect(t *testing.T, got, want string, what ...string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%q: %q; want %q", what, got, want)
	}
}

func TestProgramReachesNoFileOutsideItsGrants(t *testing.T) {
	needs(t, "files")
	secret := secretFile(t)
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, try := range [][]string{
		{"read", secret}, {"write", secret}, {"remove", secret}, {"truncate", secret}, {"symlink", secret},
		{"read", "/etc/passwd"}, {"read", "/etc/shadow"}, {"list", "/etc"}, {"list", "/"}, {"list", "/tmp"}, {"list", home}, {"list", "/proc"},
		{"write", filepath.Join(filepath.Dir(secret), "new")}, {"write", filepath.Join(home, ".converge-test-new")}, {"write", "/usr/bin/converge-test-new"},
		{"write", "/tmp/converge-test-new"}, {"write", "/dev/shm/converge-test-new"}, {"write", "/proc/sys/kernel/core_pattern"},
		{"read", strings.Repeat("../", 20) + secret}, {"read", "/usr/../" + secret}, {"read", "/proc/self/root" + secret},
	} {
		got := attack(t, nil, try...)
		if !strings.Contains(got, denied) && !strings.Contains(got, "no such file") { // such as /dev/shm
			t.Errorf("%q: %q; want it denied", try, got)
		}
		// The same works without the sandbox where it does no harm, so the test tests something.
		if try[0] == "read" && try[1] == secret || try[0] == "list" {
			expect(t, attack(t, func(c *command.Config) { c.UnsafeNoSandbox = true }, try...), "done", try...)
		}
	}
	// A link to a file in another directory would make it a file of this one.
	if got := attack(t, nil, "link", secret); got == "done" {
		t.Error("a file outside was linked into the directory of the call")
	}
	if text, _ := os.ReadFile(secret); string(text) != "hunter2" {
		t.Errorf("the file outside holds %q", text)
	}
}

func TestGrantsAreWhatTheySay(t *testing.T) {
	needs(t, "files")
	secret := secretFile(t)
	folder := filepath.Dir(secret)
	read := func(c *command.Config) { c.Read = []string{folder} }
	write := func(c *command.Config) { c.Write = []string{folder} }
	for _, c := range []struct {
		change func(*command.Config)
		try    []string
		want   string
	}{
		{nil, []string{"write", "own"}, "done"},
		{nil, []string{"write", os.DevNull}, "done"},
		{nil, []string{"list", "/usr/bin"}, "done"},
		{read, []string{"read", secret}, "done"},
		{read, []string{"list", folder}, "done"},
		{read, []string{"write", secret}, denied},
		{read, []string{"write", folder + "/new"}, denied},
		{read, []string{"truncate", secret}, denied},
		{read, []string{"remove", secret}, denied},
		{func(c *command.Config) { c.Dir = folder }, []string{"read", "secret"}, "done"},
		{func(c *command.Config) { c.Dir = folder }, []string{"write", "secret"}, denied},
		{func(c *command.Config) { c.Read = []string{secret} }, []string{"read", secret}, "done"},
		{func(c *command.Config) { c.Read = []string{secret} }, []string{"list", folder}, denied},
		{write, []string{"write", folder + "/new"}, "done"},
		{write, []string{"remove", folder + "/new"}, "done"},
		{write, []string{"write", folder + "/../new"}, denied},
	} {
		expect(t, attack(t, c.change, c.try...), c.want, c.try...)
	}
}

func TestGrantThatHasVanishedIsAnError(t *testing.T) {
	needs(t, "files")
	folder := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	c := helperConfig(t, "attack", "noop")
	c.Read = []string{folder}
	it := newTool(t, c)
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if _, err := it.Run(t.Context(), nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), folder) {
		t.Errorf("error %v", err)
	}
}

// TestLinkInThePlaceOfAGrantLeadsNowhere has somebody who may write to a folder that holds what is granted (an earlier call
// of the tool itself, say) put a link there that leads to what is not.
func TestLinkInThePlaceOfAGrantLeadsNowhere(t *testing.T) {
	needs(t, "files")
	secret := secretFile(t)
	for name, grant := range map[string]func(c *command.Config, folder string){
		"read":  func(c *command.Config, folder string) { c.Read = []string{folder} },
		"write": func(c *command.Config, folder string) { c.Write = []string{folder} },
		"dir":   func(c *command.Config, folder string) { c.Dir = folder },
		"stdin": func(c *command.Config, folder string) { c.StdinFile = filepath.Join(folder, "secret") },
		"paths": func(c *command.Config, folder string) {
			c.Paths, c.Args = map[string]string{"path": folder}, append(c.Args, "--", "{path}")
		},
	} {
		shared := t.TempDir()
		folder, aside := filepath.Join(shared, "docs"), filepath.Join(shared, "aside")
		for _, err := range []error{os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "secret"), []byte("no"), 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		c := helperConfig(t, "attack", "read", secret)
		grant(&c, folder)
		it := newTool(t, c)
		params := map[string]any{}
		if c.Paths != nil {
			params = map[string]any{"path": "."}
		}
		if got := list(t, it, params)[0]; !strings.Contains(got, denied) {
			t.Fatalf("%s: %q before there is a link", name, got)
		}
		for _, err := range []error{os.Rename(folder, aside), os.Symlink(filepath.Dir(secret), folder)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		raw, _ := json.Marshal(params)
		if output, err := it.Run(t.Context(), raw); err == nil || strings.Contains(string(output.Data), "done") {
			t.Errorf("%s: %q, %v: the link was followed", name, output.Data, err)
		}
	}
}

// TestGrantsThatAreLinksAtNewAreThoseThatTheyLeadTo takes links of the configuration for what they are then.
func TestGrantsThatAreLinksAtNewAreThoseThatTheyLeadTo(t *testing.T) {
	needs(t, "files")
	secret := secretFile(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(secret), link); err != nil {
		t.Fatal(err)
	}
	for _, grant := range []func(c *command.Config){
		func(c *command.Config) { c.Read = []string{link} },
		func(c *command.Config) { c.Write = []string{filepath.Join(link, "secret")} },
		func(c *command.Config) { c.Dir = link },
		func(c *command.Config) { c.StdinFile = filepath.Join(link, "secret") },
	} {
		expect(t, attack(t, grant, "read", secret), "done")
	}
}

func TestInterpreterThatIsNotGrantedIsNamedAsTheCause(t *testing.T) {
	needs(t, "files")
	dir := t.TempDir()
	shell, err := os.ReadFile("/bin/sh")
	for _, err := range []error{
		err, os.WriteFile(filepath.Join(dir, "sh"), shell, 0o755),
		os.WriteFile(filepath.Join(dir, "script"), []byte("#!"+dir+"/sh\necho fine\n"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := command.Config{Name: "it", Program: filepath.Join(dir, "script")}
	if _, err := newTool(t, c).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "start: permission denied: is what runs it") {
		t.Errorf("error %v", err)
	}
	c.Read = []string{filepath.Join(dir, "sh")}
	if out := runTool(t, newTool(t, c), nil); string(out.Data) != "fine" {
		t.Errorf("output %q", out.Data)
	}
}

func TestProgramHasNoNetwork(t *testing.T) {
	needs(t, "network", "unix sockets")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	address := tcp.Addr().String()
	path := filepath.Join(t.TempDir(), "socket")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	mail, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path + "2", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer mail.Close()
	reach := func(c *command.Config) { c.Write = []string{filepath.Dir(path)} }
	network := func(c *command.Config) { c.Network = true; reach(c) }
	sockets := func(c *command.Config) { c.UnixSockets = true; reach(c) }
	for _, c := range []struct {
		change func(*command.Config)
		try    []string
		want   string
	}{
		{reach, []string{"dial", "tcp", address}, denied},
		{reach, []string{"dial", "udp", address}, denied},
		{reach, []string{"listen", "tcp", "127.0.0.1:0"}, denied},
		{reach, []string{"dial", "unix", path}, denied},
		{reach, []string{"datagram", path + "2"}, denied},
		{reach, []string{"raw", path + "2"}, denied},
		{reach, []string{"tipc"}, denied},
		{reach, []string{"pair"}, "done"},
		{reach, []string{"packets"}, "done"},
		{reach, []string{"listen", "unix", path + "3"}, denied},
		{reach, []string{"dial", "unix", "@abstract"}, denied},
		{reach, []string{"netlink"}, denied},
		{reach, []string{"packet"}, denied},
		{reach, []string{"ring"}, denied},
		{network, []string{"dial", "tcp", address}, "done"},
		{network, []string{"dial", "udp", address}, "done"},
		{network, []string{"listen", "tcp", "127.0.0.1:0"}, "done"},
		{network, []string{"dial", "unix", path}, denied},
		{network, []string{"datagram", path + "2"}, denied},
		{network, []string{"raw", path + "2"}, denied},
		{network, []string{"packet"}, denied},
		{sockets, []string{"dial", "unix", path}, "done"},
		{sockets, []string{"datagram", path + "2"}, "done"},
		{sockets, []string{"raw", path + "2"}, "done"},
		{sockets, []string{"tipc"}, denied},
		{sockets, []string{"dial", "tcp", address}, denied},
	} {
		expect(t, attack(t, c.change, c.try...), c.want, c.try...)
	}
}

func TestProgramCannotTouchOtherProcesses(t *testing.T) {
	needs(t, "signals")
	victim := exec.Command("sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { victim.Process.Kill(); victim.Wait() }()
	pid := strconv.Itoa(victim.Process.Pid)
	proc := func(c *command.Config) { c.Read = []string{"/proc"} } // even then
	expect(t, attack(t, proc, "kill", pid), "operation not permitted", "kill")
	expect(t, attack(t, proc, "ptrace", pid), "operation not permitted", "ptrace")
	expect(t, attack(t, proc, "starve", pid), denied, "starve")
	expect(t, attack(t, proc, "starve", "0"), "done", "starve itself")
	expect(t, attack(t, proc, "environ", strconv.Itoa(os.Getpid())), denied, "environment of this process")
}

func TestProgramGainsNoPrivileges(t *testing.T) {
	needs(t, "no new privileges", "capabilities")
	status := func(change func(*command.Config)) map[string]string {
		c := helperConfig(t, "status")
		change(&c)
		fields := map[string]string{}
		for line := range strings.Lines(list(t, newTool(t, c), nil)[0]) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		return fields
	}
	proc := func(c *command.Config) { c.Read = []string{"/proc"} }
	got := status(proc)
	caps, err := strconv.ParseUint(got["CapEff"], 16, 64)
	if got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" || err != nil || caps&^0b11011 != 0 || got["CapPrm"] != got["CapEff"] {
		t.Errorf("no new privileges %s, seccomp %s, capabilities %s of %s", got["NoNewPrivs"], got["Seccomp"], got["CapEff"], got["CapPrm"])
	}
	expect(t, attack(t, nil, "mount", "."), "operation not permitted", "mount")
	expect(t, attack(t, nil, "chroot", "."), "operation not permitted", "chroot")
	expect(t, attack(t, func(c *command.Config) { c.Limits.OpenFiles = 64 }, "raise"), "operation not permitted", "raise")

	// A program that is another user's, and is to run as that one.
	if os.Getuid() != 0 {
		t.Log("only root can make a set-user-ID program of another user; the rest has been tested")
		return
	}
	path := filepath.Join(t.TempDir(), "setuid")
	binary, err := os.ReadFile(helperConfig(t).Program)
	for _, err := range []error{err, os.WriteFile(path, binary, 0o755), os.Chown(path, 65534, -1), os.Chmod(path, 0o755|fs.ModeSetuid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	user := func(unsafe bool) string {
		c := helperConfig(t, "user")
		c.Program, c.UnsafeNoSandbox = path, unsafe
		c.PassEnv = nil
		return list(t, newTool(t, c), nil)[0]
	}
	if before, after := user(true), user(false); before != "65534" || after != "0" {
		t.Errorf("runs as user %s without the sandbox and as %s in it; want 65534 and 0", before, after)
	}
}

func TestProgramStaysWithinItsLimits(t *testing.T) {
	needs(t, "limits")
	for _, c := range []struct {
		limits command.Limits
		try    []string
		want   string
	}{
		{command.Limits{}, []string{"memory"}, "done"},
		{command.Limits{Memory: 512 << 20}, []string{"memory"}, "cannot allocate memory"},
		{command.Limits{}, []string{"shared"}, "cannot allocate memory"},
		{command.Limits{OpenFiles: 64}, []string{"files"}, "too many open files"},
	} {
		expect(t, attack(t, func(config *command.Config) { config.Limits = c.limits }, c.try...), c.want, c.try...)
	}
	for name, c := range map[string]struct {
		config command.Config
		limits command.Limits
		want   syscall.Signal
	}{
		"endless file": {shell("exec cat /dev/zero > big"), command.Limits{FileSize: 1 << 20}, syscall.SIGXFSZ},
		"endless loop": {shell("while :; do :; done"), command.Limits{CPU: time.Nanosecond}, syscall.SIGXCPU},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.Limits = c.limits
			_, err := newTool(t, c.config).Run(t.Context(), nil)
			if exit, ok := errors.AsType[*command.ExitError](err); !ok || exit.Signal != c.want {
				t.Errorf("error %v; want the signal %v", err, c.want)
			}
		})
	}
}

// The kernel does not count root's processes, so this test goes on as another user.
func TestForkBombIsBounded(t *testing.T) {
	needs(t, "limits")
	const user = 65531 // who has no other processes
	dir, err := os.MkdirTemp("", "converge-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "test")
	binary, err := os.ReadFile(helperConfig(t).Program)
	for _, err := range []error{err, os.Chmod(dir, 0o755), os.WriteFile(program, binary, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "helper", "bomb")
	cmd.Dir = "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	out, err := cmd.CombinedOutput()
	var children, limit int
	if _, scanErr := fmt.Sscan(string(out), &children, &limit); err != nil || scanErr != nil || children > limit || os.Getuid() == 0 && children == 0 {
		t.Errorf("%s, error %v: %d children with a limit of %d", out, err, children, limit)
	}
}

// bomb is the process of another user: it runs a tool that starts processes until it cannot, and tells how many it
// has started.
func bomb([]string) {
	const limit = 64 // this process has threads, too
	it, err := command.New(command.Config{Name: "bomb", Program: "sh", PassEnv: []string{"PATH"}, Limits: command.Limits{Processes: limit},
		Args: []string{"-c", "n=0; while [ $n -lt 500 ]; do sleep 100 & n=$((n+1)); echo $n >&2; done"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = it.Run(context.Background(), nil)
	exit, stopped := errors.AsType[*command.ExitError](err) // a shell gives up when it cannot fork
	if !stopped {
		fmt.Println("it was not stopped:", err)
		return
	}
	most := 0
	for word := range strings.FieldsSeq(exit.Stderr) {
		if n, err := strconv.Atoi(word); err == nil {
			most = max(most, n)
		}
	}
	fmt.Println(most, limit)
}

func TestProtectionsAreThoseThatTheKernelShows(t *testing.T) {
	status, err := os.ReadFile("/sys/kernel/security/lsm")
	abi, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	t.Logf("Landlock ABI %d (%v), security modules %q (%v), user %d", int(abi), errno, status, err, os.Getuid())
	byName, all := map[string]command.Protection{}, true
	for _, p := range newTool(t, helperConfig(t, "attack", "noop")).Protections() {
		byName[p.Name] = p
		all = all && (p.InForce || p.Name == "processes")
		t.Log(p.InForce, p)
	}
	if got := byName["files"]; got.InForce != (errno == 0) || errno == 0 && got.Detail != fmt.Sprintf("Landlock ABI %d", abi) {
		t.Errorf("files: %+v; the kernel says ABI %d, %v", got, int(abi), errno)
	}
	if got := byName["processes"]; got.InForce && os.Getuid() == 0 || got.Detail == "" {
		t.Errorf("processes: %+v for user %d", got, os.Getuid())
	}
	for _, name := range []string{"limits", "no new privileges", "capabilities", "signals", "network", "unix sockets"} {
		if byName[name].Detail == "" {
			t.Errorf("%s: nothing is said", name)
		}
	}
	c := helperConfig(t, "attack", "noop")
	c.Network, c.UnixSockets = true, true
	for _, p := range newTool(t, c).Protections() {
		if p.Name == "network" || p.Name == "unix sockets" {
			t.Errorf("granted, but %s is among the protections", p)
		}
	}
	c = helperConfig(t, "attack", "noop")
	c.UnsafeNoSandbox = true
	if p := newTool(t, c).Protections(); len(p) != 1 || p[0].InForce || !strings.Contains(p[0].Detail, "UnsafeNoSandbox") {
		t.Errorf("without a sandbox: %v", p)
	}
	c.UnsafeNoSandbox, c.RequireSandbox = false, true
	if _, err := command.New(c); (err == nil) != all {
		t.Errorf("sandbox required: %v", err)
	}
}

// The thread that starts a program gives up its rights; this process must not.
func TestThisProcessKeepsItsRights(t *testing.T) {
	it := newTool(t, helperConfig(t, "attack", "noop"))
	for range 20 {
		runTool(t, it, nil)
	}
	secret := secretFile(t)
	done := make(chan error)
	for range 50 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			done <- errors.Join(os.WriteFile(secret, nil, 0o600), listen("tcp", "127.0.0.1:0"))
		}()
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		if status, err := os.ReadFile(thread); err == nil && strings.Contains(string(status), "NoNewPrivs:\t1") {
			t.Errorf("%s has been restricted and is still there", thread)
		}
	}
}

func TestManyQuickRuns(t *testing.T) {
	it := newTool(t, command.Config{Name: "it", Program: "true"})
	descriptors := 0
	done := make(chan error)
	for i := range quickRuns {
		if i == 10 {
			descriptors = openDescriptors(t)
		}
		go func() { _, err := it.Run(t.Context(), nil); done <- err }()
		if i%4 == 3 {
			for range 4 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if n := openDescriptors(t); n > descriptors+20 {
		t.Errorf("%d descriptors are open, about %d were before", n, descriptors)
	}
}

// A process that leaves its session survives the call. It stays in the sandbox.
func TestProcessThatLeavesItsSessionStaysInTheSandbox(t *testing.T) {
	needs(t, "files")
	secret, path := secretFile(t), pipe(t)
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := writing(helperConfig(t, "leave", path, secret), path)
	runTool(t, newTool(t, c), nil)
	var session, leader int
	var word, rest string
	if _, err := fmt.Fscan(reader, &session, &leader, &word, &rest); err != nil || session != leader {
		t.Fatalf("session %d of process %d: %v", session, leader, err)
	}
	if err := syscall.Kill(leader, syscall.SIGKILL); err != nil {
		t.Errorf("the process that left is gone: %v", err)
	}
	if word+" "+rest != denied {
		t.Errorf("the process that left read a file outside: %s %s", word, rest)
	}
}

// A program does not outlive this process, even if that is killed.
func TestProgramDiesWithThisProcess(t *testing.T) {
	needs(t, "limits")
	path := pipe(t)
	owner := exec.Command(helperConfig(t).Program, "helper", "owner", path)
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := reader.Read(make([]byte, 1)); err != nil { // it runs
		t.Fatal(err)
	}
	owner.Process.Kill()
	owner.Wait()
	if _, err := reader.Read(make([]byte, 1)); err == nil { // ends when it is dead
		t.Error("the program lives")
	}
}

// TestFolderThatHoldsWhatIsExceptedIsNotGrantedWhole runs a program that goes for a key on its own, whatever its params are.
func TestFolderThatHoldsWhatIsExceptedIsNotGrantedWhole(t *testing.T) {
	needs(t, "files")
	dir := t.TempDir()
	key, file, other := filepath.Join(dir, "state", "key"), filepath.Join(dir, "sub", "file"), filepath.Join(dir, "other")
	for _, path := range []string{key, file, other} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		except []string
		reads  string
		named  string
		want   string
	}{
		"key":                   {[]string{filepath.Join(dir, "state")}, key, file, denied},
		"another file":          {[]string{filepath.Join(dir, "state")}, other, file, denied},
		"the file that's named": {[]string{filepath.Join(dir, "state")}, file, file, "done"},
		"in a folder":           {[]string{filepath.Join(dir, "state")}, file, filepath.Dir(file), "done"},
		"without":               {nil, key, file, "done"},
		"elsewhere":             {[]string{t.TempDir()}, other, file, "done"},
		"around":                {[]string{filepath.Dir(dir), dir}, key, file, "done"},
	} {
		config := helperConfig(t, "attack", "read", c.reads, "--", "{f}")
		config.Paths, config.Except = map[string]string{"f": dir}, c.except
		if got := list(t, newTool(t, config), map[string]any{"f": c.named})[0]; !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// The program is handed the file, and needs no rights of its own.
	config := helperConfig(t, "attack", "read", file)
	config.Paths, config.Except, config.StdinFile = map[string]string{"f": dir}, []string{key}, "{f}"
	if got := list(t, newTool(t, config), map[string]any{"f": file})[0]; !strings.Contains(got, denied) {
		t.Errorf("standard input: %q", got)
	}
}
