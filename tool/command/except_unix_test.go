//go:build unix

package command_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/tool/command"
)

// state makes a folder with a key in a folder of files.
func state(t *testing.T) (dir, key string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key = filepath.Join(dir, "state", "keys", "key")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(key), 0o700),
		os.WriteFile(key, []byte("secret"), 0o600),
		os.Mkdir(filepath.Join(dir, "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("public"), 0o600),
		os.Symlink(filepath.Join("..", "state", "keys"), filepath.Join(dir, "sub", "link")),
		os.Link(key, filepath.Join(dir, "sub", "hard")),
	); err != nil {
		t.Fatal(err)
	}
	return dir, key
}

// TestParamThatLeadsToWhatIsExceptedIsRefused tries all names that a key has.
func TestParamThatLeadsToWhatIsExceptedIsRefused(t *testing.T) {
	t.Parallel()
	dir, key := state(t)
	for _, except := range [][]string{{filepath.Join(dir, "state"), key}, {filepath.Join(dir, "sub", "link"), key}} {
		as := shell("cat < \"$0\"")
		as.Args = append(as.Args, "--", "{f}")
		in := command.Config{Name: "in", Program: "cat", StdinFile: "{f}"}
		for _, c := range []command.Config{as, in} {
			c.Paths, c.Except = map[string]string{"f": dir}, except
			it := newTool(t, c)
			for _, value := range []string{
				"state/keys/key", key, "./sub/../state/keys/key", "sub/link/key", "sub/hard", "state/keys", ".", "sub/link", dir,
			} {
				out, err := it.Run(t.Context(), params(t, map[string]any{"f": value}))
				wantInvalid(t, err, `param "f" leads to what is kept from tools`)
				if strings.Contains(string(out.Data), "secret") {
					t.Errorf("%s: %q", value, out.Data)
				}
			}
		}
		in.Paths, in.Except = map[string]string{"f": dir}, except
		if out := runTool(t, newTool(t, in), map[string]any{"f": "sub/file"}); string(out.Data) != "public" {
			t.Errorf("%q", out.Data)
		}
	}
}

// TestExceptionThatIsNotThereYet holds once it is.
func TestExceptionThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	dir, _ := state(t)
	c := command.Config{Name: "in", Program: "cat", StdinFile: "{f}", Paths: map[string]string{"f": dir}, Except: []string{filepath.Join(dir, "late")}}
	it := newTool(t, c)
	if err := os.WriteFile(filepath.Join(dir, "late"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := it.Run(t.Context(), params(t, map[string]any{"f": "late"}))
	wantInvalid(t, err, `param "f" leads to what is kept from tools`)
}

// TestExceptionBehindLinksThatIsNotThereYet names by links what is made later, some folders deep.
func TestExceptionBehindLinksThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, link, late string }{
		{"in folders to come", "sub", "a/b/key"},
		{"a link to nowhere", "a", "b/key"},
		{"links to nowhere", "more", "b/key"},
	} {
		dir, _ := state(t)
		elsewhere := t.TempDir()
		if err := errors.Join(
			os.Symlink(filepath.Join(dir, c.link), filepath.Join(elsewhere, "link")),
			os.Symlink("sub/a", filepath.Join(dir, "more")),
		); err != nil {
			t.Fatal(err)
		}
		it := newTool(t, command.Config{
			Name: "in", Program: "cat", StdinFile: "{f}", Paths: map[string]string{"f": dir},
			Except: []string{filepath.Join(elsewhere, "link", filepath.FromSlash(c.late))},
		})
		key := filepath.Join(dir, c.link, c.late)
		if c.link == "more" {
			key = filepath.Join(dir, "sub", "a", c.late)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(key), 0o700), os.WriteFile(key, []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if out, err := it.Run(t.Context(), params(t, map[string]any{"f": key})); err == nil {
			t.Errorf("%s: it reads %q", c.name, out.Data)
		}
	}
}

// TestExceptionThatLeadsInCircles is not taken for one that is not there.
func TestExceptionThatLeadsInCircles(t *testing.T) {
	t.Parallel()
	dir, _ := state(t)
	circle := filepath.Join(dir, "circle")
	if err := os.Symlink("circle", circle); err != nil {
		t.Fatal(err)
	}
	_, err := command.New(command.Config{
		Name: "in", Program: "cat", StdinFile: "{f}", Paths: map[string]string{"f": dir}, Except: []string{circle},
	})
	if err == nil || !strings.Contains(err.Error(), "field Except[0]") {
		t.Errorf("New: %v", err)
	}
}

// TestLinkThatWasPutThereSinceIsNotFollowed opens a path that was checked when it had no links.
func TestLinkThatWasPutThereSinceIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir, key := state(t)
	for _, path := range []string{filepath.Join(dir, "sub", "link", "key"), filepath.Join(dir, "sub", "link")} {
		if f, err := command.OpenBeneath(dir, path); err == nil {
			f.Close()
			t.Errorf("%s: opened", path)
		}
	}
	if err := os.Symlink(key, filepath.Join(dir, "direct")); err != nil {
		t.Fatal(err)
	}
	if f, err := command.OpenBeneath(dir, filepath.Join(dir, "direct")); err == nil {
		f.Close()
		t.Error("a link to a file was opened")
	}
	f, err := command.OpenBeneath(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}
}
