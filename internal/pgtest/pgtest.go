//go:build unix

package pgtest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Server is a PostgreSQL server on a loopback port with one database, "postgres". Its methods are not for
// concurrent use; what they return is.
type Server struct {
	Addr string // host and port, the same after a restart

	home string // holds data and log
	bin  string
	run  *process
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Shared returns the server of this test binary, which the first call starts.
func Shared(t testing.TB) *Server {
	t.Helper()
	bin := find(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = open(bin)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// Stop ends the shared server and removes its directory. Call it after the last test.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		shared.server.remove()
		shared.server = nil
	}
}

// New starts a server that ends with the test. Options are settings such as "fsync=off".
func New(t testing.TB, options ...string) *Server {
	t.Helper()
	s, err := open(find(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}

// find returns where the newest installed server's programs are.
func find(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if path, err := exec.LookPath("postgres"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		unavailable(t, "PostgreSQL is not installed (apt-get install postgresql)")
	}
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) }) // 9 before 10
	return filepath.Dir(found[len(found)-1])
}

func open(bin string, options ...string) (*Server, error) {
	sweep()
	home, err := os.MkdirTemp(roomy(), fmt.Sprintf("pgtest-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	s := &Server{home: home, bin: bin}
	if err := s.create(options); err != nil {
		s.remove()
		return nil, err
	}
	if err := s.Start(); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// sweep removes what crashed test binaries have left behind.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(cmp.Or(roomy(), os.TempDir()), "pgtest-*-*"))
	for _, home := range left {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(home), "-")[1])
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(home)
		}
	}
}

// roomy returns where the server goes, "" for the usual place.
func roomy() string {
	const memory, wanted = "/dev/shm", 2 << 30
	var found syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &found) != nil || found.Bavail*uint64(found.Bsize) < wanted {
		return ""
	}
	return memory
}

// create makes the data directory.
func (s *Server) create(options []string) error {
	pass := filepath.Join(s.home, "password")
	if err := os.WriteFile(pass, []byte(Password), 0o600); err != nil {
		return err
	}
	as, err := account()
	if err != nil {
		return err
	}
	if as != nil {
		if err := errors.Join(os.Chown(s.home, int(as.Uid), int(as.Gid)), os.Chown(pass, int(as.Uid), int(as.Gid))); err != nil {
			return err
		}
	}
	init := exec.Command(filepath.Join(s.bin, "initdb"), "--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256",
		"--username="+User, "--pwfile="+pass, "--pgdata="+s.data())
	init.Dir = s.home
	init.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return s.configure(options)
}

// configure chooses a port and appends settings to those that initdb wrote.
func (s *Server) configure(options []string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	settings := append([]string{
		"listen_addresses='127.0.0.1'", "unix_socket_directories=''", fmt.Sprintf("port=%d", port),
		"max_connections=200", "shared_buffers=64MB", "max_wal_size=512MB", "autovacuum_naptime=10s",
	}, options...)
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("\n" + strings.Join(settings, "\n") + "\n")
	return errors.Join(err, conf.Close())
}

func (s *Server) data() string { return filepath.Join(s.home, "data") }

func (s *Server) remove() {
	s.Kill()
	os.RemoveAll(s.home)
}

// freePort returns a port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
