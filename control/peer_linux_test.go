package control_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/converge-agents/converge/control"
)

// dialAs is the life of a process of another user: it asks and is served, or not. The exit code says which.
func dialAs(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 3
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	const body = `{"action":"cancel"}`
	_, _ = fmt.Fprintf(conn, "POST /v1/tasks/t-1 HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if n, _ := conn.Read(make([]byte, 1)); n == 0 {
		return 4
	}
	return 0
}

// TestOtherUserIsNotServed opens the socket to everybody, as a slip of its owner would, and has another user ask.
func TestOtherUserIsNotServed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	f, o := operate(t)
	path := filepath.Join(f.dir, control.SocketName)
	if err := errors.Join(os.Chmod(f.dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := filepath.Join(f.dir, "child") // where that user can run it
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(child, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]int{0: 0, 65534: 4} {
		cmd := exec.Command(child)
		cmd.Env = []string{"CONVERGE_TEST_DIAL=" + path}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("uid %d: exit code %d, %v, want %d", uid, got, fmt.Sprint(err), want)
		}
		if done := len(o.taken()) > 0; done != (want == 0) {
			t.Errorf("uid %d: a task was cancelled: %v", uid, done)
		}
	}
}
