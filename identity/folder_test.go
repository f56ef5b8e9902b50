package identity_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
)

// watched is a scene with a folder of statements that its registry follows.
type watched struct {
	*scene
	dir    string
	folder *identity.Folder
	log    *bytes.Buffer
}

func newWatched(t *testing.T) *watched {
	w := &watched{scene: newScene(t), dir: filepath.Join(t.TempDir(), "statements"), log: &bytes.Buffer{}}
	var err error
	w.folder, err = identity.NewFolder(identity.FolderConfig{Dir: w.dir, Registry: w.registry, Logger: slog.New(slog.NewTextHandler(w.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	w.load()
	return w
}

func (w *watched) load() {
	w.Helper()
	if err := w.folder.Load(); err != nil || w.folder.Err() != nil {
		w.Fatal(err)
	}
}

// drop writes a file as an editor would.
func (w *watched) drop(name string, text []byte) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o644); err != nil {
		w.Fatal(err)
	}
}

func (w *watched) put(raw []byte) {
	w.Helper()
	if _, changed, err := identity.ImportStatement(w.dir, raw); err != nil || !changed {
		w.Fatalf("import: %v, %v", changed, err)
	}
}

func revoke(t testing.TB, root *identity.Identity, current []byte) []byte {
	t.Helper()
	raw, err := root.Revoke(current)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestStatementsOfAFolderAreApplied(t *testing.T) {
	w := newWatched(t)
	first := w.rotate(w.root, identity.Rotation{})
	second := w.rotate(first, identity.Rotation{})
	w.put(first.Statement())
	w.load()
	w.wantCurrent(first)
	w.put(second.Statement())
	w.load()
	w.wantCurrent(second)
	w.drop("any-name.statement", identity.EncodeStatement(revoke(t, w.root, nil)))
	w.load()
	w.wantNoKey(second, identity.ErrRevoked)
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	w.load() // and it is made again
	w.wantNoKey(second, identity.ErrRevoked)
}

// TestFileThatIsWrittenSlowlyIsReadAgain has a look come between two halves of a file.
func TestFileThatIsWrittenSlowlyIsReadAgain(t *testing.T) {
	w := newWatched(t)
	text := identity.EncodeStatement(revoke(t, w.root, nil))
	w.drop("a.statement", text[:len(text)/2])
	w.load()
	w.wantKey(w.root)
	w.drop("a.statement", text)
	w.load()
	w.wantNoKey(w.root, identity.ErrRevoked)
}

// TestHostileFilesChangeNothing is a folder in which anybody may write.
func TestHostileFilesChangeNothing(t *testing.T) {
	w := newWatched(t)
	first := w.rotate(w.root, identity.Rotation{})
	w.apply(first.Statement())
	forged := revoke(t, w.root, nil)
	forged[len(forged)-1] ^= 1
	w.drop("forged.statement", identity.EncodeStatement(forged))
	w.drop("garbage.statement", []byte("trust me"))
	w.drop("empty.statement", nil)
	w.drop("huge.statement", make([]byte, 1<<20))
	w.drop("other.pem", identity.EncodeStatement(revoke(t, w.root, nil))) // of another name
	w.drop("foreign.statement", identity.EncodeStatement(revoke(t, fromSeed(t, 9), nil)))
	if err := os.Mkdir(filepath.Join(w.dir, "folder.statement"), 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, identity.EncodeStatement(revoke(t, w.root, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(w.dir, "link.statement")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.load()
	}
	w.wantCurrent(first)
	for _, name := range []string{"forged", "garbage", "empty", "huge", "folder", "link"} {
		if n := strings.Count(w.log.String(), name+".statement"); n < 1 || n > 2 {
			t.Errorf("%d lines about %s", n, name)
		}
	}
}

func TestFolderThatCannotBeReadIsAnError(t *testing.T) {
	w := newWatched(t)
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.dir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.folder.Load(); err == nil || !strings.Contains(err.Error(), w.dir) || w.folder.Err() == nil {
		t.Errorf("%v, %v", err, w.folder.Err())
	}
	for field, c := range map[string]identity.FolderConfig{
		"Dir": {Registry: w.registry}, "Registry": {Dir: w.dir}, "Every": {Dir: w.dir, Registry: w.registry, Every: -1},
	} {
		if _, err := identity.NewFolder(c); err == nil || !strings.Contains(err.Error(), "FolderConfig."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestRevocationTypedByAnOperatorIsInForceWithinASecond runs the folder of two processes.
func TestRevocationTypedByAnOperatorIsInForceWithinASecond(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		root := fromSeed(t, 1)
		var registries [2]*identity.Registry
		ended := make(chan error, 2)
		for i := range registries {
			registries[i] = registryAt(&clock{now: noon})
			register(t, registries[i], root)
			folder, err := identity.NewFolder(identity.FolderConfig{Dir: dir, Registry: registries[i], Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- folder.Run(ctx) }()
		}
		time.Sleep(10 * time.Second)
		if _, _, err := identity.ImportStatement(dir, revoke(t, root, nil)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		for i, r := range registries {
			if _, err := r.Lookup(root.ID()); err != identity.ErrRevoked {
				t.Errorf("process %d: %v", i, err)
			}
		}
		cancel()
		for range registries {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestImportKeepsTheStatementThatCounts(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "new")
	first := s.rotate(s.root, identity.Rotation{})
	second, contrary := s.rotate(first, identity.Rotation{}), s.rotate(first, identity.Rotation{})
	revoked := revoke(t, s.root, first.Statement())
	for i, step := range []struct {
		raw     []byte
		changed bool
		err     error
	}{
		{first.Statement(), true, nil},
		{first.Statement(), false, nil},
		{second.Statement(), true, nil},
		{first.Statement(), false, identity.ErrRolledBack},
		{contrary.Statement(), false, identity.ErrQuarantined},
		{[]byte("rubbish"), false, identity.ErrStatement},
		{revoked, true, nil},
		{second.Statement(), false, identity.ErrRevoked},
	} {
		path, changed, err := identity.ImportStatement(dir, step.raw)
		if changed != step.changed || !errors.Is(err, step.err) {
			t.Errorf("step %d: %v, %v", i, changed, err)
		}
		if err == nil && path != identity.StatementFile(dir, s.root.ID()) {
			t.Errorf("step %d: %s", i, path)
		}
	}
	if raw, err := identity.ReadStatementFile(identity.StatementFile(dir, s.root.ID())); err != nil || !bytes.Equal(raw, revoked) {
		t.Errorf("%x, %v", raw, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.statement"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	listed, err := identity.ListStatements(dir)
	if err != nil || len(listed) != 2 {
		t.Fatalf("%v, %v", listed, err)
	}
	for _, l := range listed {
		if bad := l.File == "bad.statement"; bad != (l.Err != nil) || !bad && (!l.Statement.Revoked || l.Statement.ID != s.root.ID()) {
			t.Errorf("%+v", l)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("something is left over: %v, %v", entries, err)
	}
}
