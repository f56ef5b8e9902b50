//go:build unix && !race

package wasm_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/tool/wasm"
)

// script runs lines of operations in one call, and returns what came of each.
func script(t *testing.T, it *wasm.Tool, lines ...string) map[string]string {
	t.Helper()
	results := map[string]string{}
	for line := range strings.Lines(mustRun(t, it, "{\""+strings.Join(lines, "\n")+"\"}")) {
		what, said, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		results[what] = said
	}
	return results
}

// world is a directory with a secret outside of the one that is mounted, and all sorts of ways to it.
func world(t *testing.T) (inside, secret string) {
	t.Helper()
	base := t.TempDir()
	inside, secret = filepath.Join(base, "inside"), filepath.Join(base, "secret")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(inside, "sub"), 0o755),
		os.WriteFile(secret, []byte("hunter2"), 0o644),
		os.WriteFile(filepath.Join(inside, "a"), []byte("of a"), 0o644),
		os.Symlink("../secret", filepath.Join(inside, "out")),
		os.Symlink(secret, filepath.Join(inside, "out-abs")),
		os.Symlink("..", filepath.Join(inside, "up")),
		os.Symlink("../new", filepath.Join(inside, "dangling")),
		os.Symlink("a", filepath.Join(inside, "in")),
		syscall.Mkfifo(filepath.Join(inside, "pipe"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return inside, secret
}

func TestWithoutMountsThereAreNoFiles(t *testing.T) {
	t.Parallel()
	_, secret := world(t)
	for what, said := range script(t, newTool(t, guestConfig(t, "files")), "read "+secret, "list /", "list .", "read /etc/passwd", "write x") {
		if strings.HasSuffix(said, "<nil>") || strings.Contains(said, "hunter2") {
			t.Errorf("%s: %s", what, said)
		}
	}
}

func TestModuleDoesNotEscapeItsMount(t *testing.T) {
	t.Parallel()
	inside, secret := world(t)
	attacks := []string{
		"read /d/../secret", "read /d/sub/../../secret", "read /d/out", "read /d/out-abs", "read /d/up/secret", "read /d/up/inside/../secret",
		"read " + secret, "list /d/up", "list /d/..", "list /", "read /d/pipe", "write /d/pipe", "write /d/dangling", "write /d/out", "write /d/../new",
		"symlink ../secret /d/mine", "link /d/out /d/mine", "rename /d/up/secret /d/mine", "rename /d/a /d/up/a", "mkdir /d/up/new", "remove /d/up/secret", "truncate /d/out",
	}
	for _, write := range []bool{false, true} {
		c := guestConfig(t, "files")
		c.Mounts = []wasm.Mount{{Dir: inside, At: "/d", Write: write}}
		it := newTool(t, c)
		results := script(t, it, attacks...)
		for _, attack := range attacks {
			if said, tried := results[attack]; !tried || strings.HasSuffix(said, "<nil>") || strings.Contains(said, "hunter2") {
				t.Errorf("write %t: %s: %q (%t)", write, attack, said, tried)
			}
		}
		if it.Annotations().ReadOnly == write {
			t.Errorf("write %t: read-only %t", write, it.Annotations().ReadOnly)
		}
	}
	if text, err := os.ReadFile(secret); string(text) != "hunter2" || err != nil {
		t.Errorf("the file outside holds %q, %v", text, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(inside)); len(entries) != 2 || err != nil {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

func TestMountsAreWhatTheySay(t *testing.T) {
	t.Parallel()
	inside, _ := world(t)
	c := guestConfig(t, "files")
	c.Mounts = []wasm.Mount{{Dir: inside, At: "/d"}}
	lines := []string{"read /d/a", "read /d/in", "read /d/sub/../a", "list /d", "write /d/b", "append /d/b", "read /d/b", "mkdir /d/new", "rename /d/b /d/new/b", "list /d/new", "remove /d/new/b", "remove /d/new", "truncate /d/a", "open /d/a"}
	got := script(t, newTool(t, c), lines...)
	for what, want := range map[string]string{
		"read /d/a": "of a <nil>", "read /d/in": "of a <nil>", "read /d/sub/../a": "of a <nil>", "list /d": "a dangling in out out-abs pipe sub up  <nil>",
	} {
		if got[what] != want {
			t.Errorf("read-only: %s: %q; want %q", what, got[what], want)
		}
	}
	for _, what := range []string{"write /d/b", "mkdir /d/new", "truncate /d/a"} {
		if strings.HasSuffix(got[what], "<nil>") {
			t.Errorf("read-only: %s: %s", what, got[what])
		}
	}
	c.Mounts[0].Write = true
	got = script(t, newTool(t, c), lines...)
	for what, want := range map[string]string{
		"write /d/b": " <nil>", "append /d/b": " <nil>", "read /d/b": "written+ <nil>", "mkdir /d/new": " <nil>", "rename /d/b /d/new/b": " <nil>",
		"list /d/new": "b  <nil>", "remove /d/new/b": " <nil>", "remove /d/new": " <nil>",
	} {
		if got[what] != want {
			t.Errorf("writable: %s: %q; want %q", what, got[what], want)
		}
	}
	if strings.HasSuffix(got["truncate /d/a"], "<nil>") {
		t.Error("a file has become a terabyte large")
	}
	if said := got["open /d/a"]; strings.HasSuffix(said, "<nil>") || len(strings.Fields(said)[0]) > 2 {
		t.Errorf("open files without bound: %q", said)
	}
}

func TestOpenFilesAreClosedWithTheCall(t *testing.T) {
	inside, _ := world(t)
	c := guestConfig(t, "files")
	c.Mounts = []wasm.Mount{{Dir: inside, At: "/d"}}
	it := newTool(t, c)
	mustRun(t, it, `{"open /d/a"}`)
	before := descriptors(t)
	for range 20 {
		mustRun(t, it, `{"open /d/a"}`)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
