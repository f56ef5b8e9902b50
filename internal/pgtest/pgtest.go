//go:build unix

package pgtest

import (
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
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

	home     string // holds data and log
	bin      string
	run      *process
	pristine string // what initdb made, for others to copy; empty if there is none
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
		shared.server, shared.err = openShared(bin)
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
	s, err := open(find(t), pristine(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}

// pristine returns the data directory of the shared server as it was before its first start, if there is that server.
func pristine() string {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		return ""
	}
	return shared.server.pristine
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

func openShared(bin string) (*Server, error) {
	s, err := create(bin, "")
	if err != nil {
		return nil, err
	}
	s.pristine = filepath.Join(s.home, "pristine")
	if err := s.as("cp", "-Rp", s.data(), s.pristine); err != nil {
		s.remove()
		return nil, err
	}
	return s.first(nil)
}

// open starts a server on a copy of a data directory, or on one that initdb makes.
func open(bin, pristine string, options ...string) (*Server, error) {
	s, err := create(bin, pristine)
	if err != nil {
		return nil, err
	}
	return s.first(options)
}

func create(bin, pristine string) (*Server, error) {
	sweep()
	home, err := os.MkdirTemp(roomy(), fmt.Sprintf("pgtest-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	s := &Server{home: home, bin: bin}
	if err := s.create(pristine); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// first starts the server for the first time. Its port was free a moment ago, and may be another's by now.
func (s *Server) first(options []string) (_ *Server, err error) {
	for range 5 {
		if err = s.configure(options); err == nil {
			err = s.Start()
		}
		if err == nil {
			return s, nil
		}
		if !strings.Contains(err.Error(), "could not bind") {
			break
		}
	}
	s.remove()
	return nil, err
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
func (s *Server) create(pristine string) error {
	pass := filepath.Join(s.home, "password")
	if err := os.WriteFile(pass, []byte(verifier()), 0o600); err != nil {
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
	if pristine != "" {
		return s.as("cp", "-Rp", pristine, s.data())
	}
	return s.as(filepath.Join(s.bin, "initdb"), "--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256",
		"--username="+User, "--pwfile="+pass, "--pgdata="+s.data())
}

// as runs a program to its end as whom the server runs.
func (s *Server) as(program string, args ...string) error {
	as, err := account()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = s.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, out)
	}
	return nil
}

// verifier returns what the server keeps of the password. One round of PBKDF2 is as good here as the usual 4,096, which
// each connection would cost.
func verifier() string {
	const rounds = 1
	salt := []byte("salt of the tests")
	salted, err := pbkdf2.Key(sha256.New, Password, salt, rounds, sha256.Size)
	if err != nil {
		panic(err) // of a hash that is fine
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored, text := sha256.Sum256(mac("Client Key")), base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, text(salt), text(stored[:]), text(mac("Server Key")))
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

// freePort returns a port that was free a moment ago, and that no system gives to connections: between a stop and the
// next start it is likely to stay free.
func freePort() (int, error) {
	var errs error
	for range 100 {
		port := 10000 + rand.IntN(22000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
		errs = errors.Join(errs, err)
	}
	return 0, errs
}
