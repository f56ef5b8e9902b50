package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

// The test binary runs itself as another process where one is needed. The variable names what it does
// there, the first argument is the path of a database.
const roleVariable = "CONVERGE_SQLITE_TEST_ROLE"

var roles = map[string]func(path string) error{
	"hold":  hold,
	"write": writeForever,
}

func child(role string) int {
	if err := roles[role](os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// command prepares to run the test binary in a role.
func command(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// start runs the test binary in a role and returns what it prints.
func start(t *testing.T, role, path string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := command(t, role, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd, bufio.NewReader(out)
}

// kill is kill -9.
func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// hold opens a store, says so, and keeps it until it is killed.
func hold(path string) error {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for _, err := range s.Watch(context.Background(), "", 0) {
		if err != nil {
			return err
		}
	}
	return nil
}

// writeForever counts in some entries, creates others and deletes them again, all at once, and prints a
// line for each change that was acknowledged: "key value revision", or "key - 0" for a deletion.
func writeForever(path string) error {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(key, value string, rev store.Revision) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s %d\n", key, value, rev)
	}
	failed := make(chan error)
	for i := range 8 {
		go func() { failed <- writeOn(s, fmt.Sprint(i), say) }()
	}
	return <-failed
}

func writeOn(s store.Store, folder string, say func(key, value string, rev store.Revision)) error {
	ctx := context.Background()
	counter := folder + "/counter"
	e, err := s.Get(ctx, counter)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	n := 0
	fmt.Sscan(string(e.Value), &n)
	for rev := e.Revision; ; {
		n++
		if rev, err = s.Put(ctx, counter, fmt.Append(nil, n), rev); err != nil {
			return err
		}
		say(counter, fmt.Sprint(n), rev)
		passing := fmt.Sprintf("%s/%d", folder, n)
		once, err := s.Put(ctx, passing, []byte(strings.Repeat("x", n*97%5000)), 0)
		if err != nil {
			return err
		}
		if n%3 == 0 {
			say(passing, "", once)
			continue
		}
		if err := s.Delete(ctx, passing, once); err != nil {
			return err
		}
		say(passing, "-", 0)
	}
}

// acknowledged is what a killed process was told of its changes: the last word on each key.
type acknowledged map[string]string

// read takes lines until there are no more.
func (a acknowledged) read(out *bufio.Reader, after int, then func()) {
	for lines := 0; ; lines++ {
		if lines == after {
			then()
		}
		line, err := out.ReadString('\n')
		if err != nil {
			return // what is cut off was not told
		}
		key, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		a[key] = rest
	}
}

// check compares what was acknowledged with what is there. A counter may be one ahead: its last
// change happened, and the process died before it could say so.
func (a acknowledged) check(t *testing.T, s store.Store) {
	t.Helper()
	var highest store.Revision
	for key, word := range a {
		var rev store.Revision
		value, told, _ := strings.Cut(word, " ")
		fmt.Sscan(told, &rev)
		highest = max(highest, rev)
		e, err := s.Get(t.Context(), key)
		switch {
		case value == "-":
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s is there again after its deletion: %d bytes at %d, %v", key, len(e.Value), e.Revision, err)
			}
		case err != nil || e.Revision < rev:
			t.Errorf("%s was acknowledged at %d and is at %d: %v", key, rev, e.Revision, err)
		case strings.HasSuffix(key, "/counter"):
			var was, is int
			fmt.Sscan(value, &was)
			fmt.Sscan(string(e.Value), &is)
			if is != was && is != was+1 {
				t.Errorf("%s was acknowledged with %d and is %d", key, was, is)
			}
		}
	}
	if rev := put(t, s, fmt.Sprintf("check/%d", highest), "", 0); rev <= highest {
		t.Errorf("revision %d was given out after %d", rev, highest)
	}
}

// killLoops starts a process that writes and kills it, over and over, and compares after each time.
func killLoops(t *testing.T, loops int) {
	path := filepath.Join(t.TempDir(), "converge.db")
	told := acknowledged{}
	for i := range loops {
		cmd, out := start(t, "write", path)
		told.read(out, 20+i*37%100, func() { cmd.Process.Kill() })
		cmd.Wait()
		s := open(t, sqlite.Config{Path: path})
		told.check(t, s)
		if err := s.Close(); err != nil || t.Failed() {
			t.Fatalf("loop %d: %v", i+1, err)
		}
	}
	t.Logf("%d keys were acknowledged over %d lives", len(told), loops)
}

func TestKilledAmidWritesLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	killLoops(t, 6)
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	cmd, out := start(t, "hold", path)
	if line, err := out.ReadString('\n'); line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	wantRefusal(t, err, sqlite.ErrLocked, path, fmt.Sprintf("process %d ", cmd.Process.Pid), "PostgreSQL")

	kill(cmd)
	put(t, open(t, sqlite.Config{Path: path}), "a", "", 0)
}

func TestSecondOpenOfOneProcessIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	s := open(t, sqlite.Config{Path: path})
	put(t, s, "a", "", 0)
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	wantRefusal(t, err, sqlite.ErrLocked, path, "this process", "PostgreSQL")
	put(t, s, "b", "", 0) // the first is none the worse for it
	s.Close()
	open(t, sqlite.Config{Path: path})
}

// wantRefusal checks an error that names a file, wraps a sentinel and comes with advice: the last text.
func wantRefusal(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	advice := texts[len(texts)-1]
	var hinted interface{ Hint() string }
	if want != nil && !errors.Is(err, want) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), advice) {
		t.Errorf("error %v, want %v with advice on %q", err, want, advice)
		return
	}
	for _, text := range texts[:len(texts)-1] {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not mention %q", err, text)
		}
	}
}
