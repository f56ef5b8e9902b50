package mcp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/tool/mcp"
)

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGroupOfAProgramIsGoneAfterClose(t *testing.T) {
	t.Parallel()
	path := fifo(t)
	s, err := config(t, "children:"+path, "add").new()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(within(t)); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(held); err != nil { // ends when nobody holds it open any more
		t.Error(err)
	}
}

// parent is a process that starts a server and says so, and then waits to be killed.
func parent(pipe string) {
	self, _ := os.Executable()
	s, err := mcp.New(mcp.Config{
		Name: "it", Tools: []string{"add"}, Logger: slog.New(slog.DiscardHandler), Read: []string{self}, Write: []string{filepath.Dir(pipe)},
		Command: []string{"/bin/sh", "-c", `exec 3>"$1"; ` + modeVariable + `=good exec "$0"`, self, pipe},
	})
	if err == nil {
		err = s.Start(context.Background())
	}
	fmt.Println("started", err)
	select {}
}

func TestProgramReadsAndReachesOnlyWhatIsGranted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config(t, "good", "read", "dial")
	s := start(t, c)
	inForce := map[string]bool{}
	for _, p := range s.Protections() {
		inForce[p.Name] = p.InForce
	}
	if os.Getenv("CONVERGE_REQUIRE_SERVICES") == "1" && !(inForce["files"] && inForce["network"]) {
		t.Errorf("not in force: %v", s.Protections())
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	granted := c
	granted.Read, granted.Network = append(granted.Read, dir), true
	with := start(t, granted)
	for call, protection := range map[string]string{
		`read {"what":"` + secret + `"}`:                   "files",
		`dial {"what":"` + listener.Addr().String() + `"}`: "network",
	} {
		name, params, _ := strings.Cut(call, " ")
		if _, err := run(t, s, name, params); (err != nil) != inForce[protection] {
			t.Errorf("%s, %s in force %v: error %v", name, protection, inForce[protection], err)
		}
		if _, err := run(t, with, name, params); err != nil {
			t.Errorf("%s, granted: %v", name, err)
		}
	}
	c.UnsafeNoSandbox, c.Read = true, nil
	if p := start(t, c).Protections(); len(p) != 1 || p[0].InForce {
		t.Errorf("protections %v", p)
	}
}

func TestProgramDiesWithAParentThatIsKilled(t *testing.T) {
	t.Parallel()
	path := fifo(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{modeVariable + "=stubborn:" + path}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started <nil>\n" {
		t.Error(line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(held); err != nil { // ends with the program
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestProgramThatDoesNotEndIsKilled(t *testing.T) {
	t.Parallel()
	c := config(t, "good", "add")
	c.Command = []string{"/bin/sh", "-c", `trap "" TERM; "$0"; while :; do sleep 1000; done`, c.Command[0]}
	s, err := c.new()
	if err == nil {
		err = s.Start(within(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
		t.Errorf("process %d is still there", pid)
	}
}
