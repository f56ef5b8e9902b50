//go:build linux

package pgtest_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
)

const childMark = "PGTEST_CHILD"

// A test binary that is killed takes its server with it.
func TestServerEndsWithItsTestBinary(t *testing.T) {
	if os.Getenv(childMark) != "" {
		fmt.Println("addr", pgtest.New(t).Addr)
		select {}
	}
	pgtest.New(t).Stop() // skips where there is no PostgreSQL
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsTestBinary$")
	cmd.Env = append(os.Environ(), childMark+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "addr ")
	cmd.Process.Kill()
	cmd.Wait()
	if !found {
		t.Fatalf("the child says %q, %v", line, err)
	}
	for deadline := time.Now().Add(30 * time.Second); listens(addr); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server at %s outlives its test", addr)
		}
	}
}

func listens(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
