//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start runs the server and returns when it takes connections.
func (s *Server) Start() error {
	if s.run != nil {
		return errors.New("the server runs already")
	}
	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go p.supervise(s, started)
	if err := <-started; err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.run = p
	return s.await()
}

// supervise stays on the thread that starts the server: the kernel ends the server with that thread.
func (p *process) supervise(s *Server, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	as, err := account()
	if err != nil {
		started <- err
		return
	}
	log, err := os.OpenFile(filepath.Join(s.home, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		started <- err
		return
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data())
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.home, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
	endWithParent(p.cmd.SysProcAttr)
	err = p.cmd.Start()
	started <- err
	if err == nil {
		p.cmd.Wait()
		close(p.ended)
	}
}

// await polls the file in which the server says how far it is.
func (s *Server) await() error {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		status, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
		lines := strings.Split(string(status), "\n")
		mine := lines[0] == strconv.Itoa(s.run.cmd.Process.Pid)
		if mine && len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" {
			return nil
		}
		select {
		case <-s.run.ended:
			s.run = nil
			return s.failed("ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return s.failed("is not ready after a minute")
}

func (s *Server) failed(what string) error {
	log, _ := os.ReadFile(s.LogFile())
	return fmt.Errorf("start PostgreSQL: it %s\n%s", what, log[max(0, len(log)-4000):])
}

// LogFile returns the path of what the server has to say.
func (s *Server) LogFile() string { return filepath.Join(s.home, "log") }

// Stop ends the server in good order: connections are cut, and what is committed is written down.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill ends the server and its processes with SIGKILL, as a power cut would end them, the machine's caches
// aside. The next start recovers.
func (s *Server) Kill() {
	if s.run == nil {
		return
	}
	children := s.Pause() // so that none is born meanwhile
	for _, pid := range children {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	s.end(syscall.SIGKILL)
	for _, pid := range children { // they hold memory that the next server wants
		for deadline := time.Now().Add(10 * time.Second); alive(pid) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
}

// Pause halts the server and its processes until Resume, and returns the latter: nothing answers, and connections stay.
func (s *Server) Pause() []int { return s.signal(syscall.SIGSTOP) }

// Resume is the end of Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// signal reaches the server and then its processes, which have process groups of their own.
func (s *Server) signal(sig syscall.Signal) []int {
	parent := s.run.cmd.Process.Pid
	syscall.Kill(parent, sig)
	pids := children(parent)
	for _, pid := range pids {
		syscall.Kill(pid, sig)
	}
	return pids
}

// end signals the server, if it runs, and waits for its end.
func (s *Server) end(sig syscall.Signal) {
	if s.run == nil {
		return
	}
	s.run.cmd.Process.Signal(sig)
	<-s.run.ended
	s.run = nil
}

// children finds the processes whose parent is pid.
func children(pid int) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if _, parent := status(child); err == nil && parent == strconv.Itoa(pid) {
			pids = append(pids, child)
		}
	}
	return pids
}

// alive tells whether a process is more than an entry that waits for its parent.
func alive(pid int) bool {
	state, _ := status(pid)
	return state != "" && state != "Z"
}

// status returns the state of a process and its parent, "" if there is none.
func status(pid int) (state, parent string) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold anything
	if fields := strings.Fields(rest); len(fields) > 1 {
		return fields[0], fields[1]
	}
	return "", ""
}

// account returns as whom the server runs: PostgreSQL refuses to run as root. Nil is the test's own user.
func account() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}
