package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	path := filepath.Join(dir, "converge.db")
	put(t, open(t, sqlite.Config{Path: path}), "a", "", 0)
	wantMode(t, dir, 0o700)
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		wantMode(t, path+suffix, 0o600)
	}
}

func TestModeOfAnExistingFileIsTightened(t *testing.T) {
	t.Parallel()
	path := closed(t, nil)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, open(t, sqlite.Config{Path: path}), "b", "", 0)
	wantMode(t, path, 0o600)
	wantMode(t, path+"-wal", 0o600)
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != want {
		t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
	}
}

// After Close one file holds everything.
func TestCloseLeavesNoLog(t *testing.T) {
	t.Parallel()
	path := closed(t, map[string]string{"a": "1"})
	for _, suffix := range []string{"-wal", "-shm", "-journal", ".new"} {
		if _, err := os.Lstat(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close %s is there: %v", path+suffix, err)
		}
	}
	copied := filepath.Join(t.TempDir(), "copy with ? and % and #.db")
	writeFile(t, copied, readFile(t, path))
	if e, err := open(t, sqlite.Config{Path: copied}).Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("the copy holds %q, %v", e.Value, err)
	}
}

// What does not belong to a store, or is damaged, is refused with advice and stays as it is.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string) // finds a store of two entries at path
		want  error
		text  string
		hint  string
	}{
		"Directory":               {directory, nil, "is a directory", "name a file"},
		"SymbolicLink":            {symbolicLink, nil, "symbolic link", "points to"},
		"HardLink":                {hardLink, nil, "2 names", "one hard link"},
		"OtherFile":               {otherFile, sqlite.ErrForeign, "no SQLite database", "another path"},
		"OtherApplication":        {statement("PRAGMA application_id = 7"), sqlite.ErrForeign, "0x7", "another path"},
		"DatabaseOfNobody":        {statement("PRAGMA application_id = 0"), sqlite.ErrForeign, "0x0", "another path"},
		"NewerVersion":            {statement("PRAGMA user_version = 99"), sqlite.ErrNewer, "version 99", "newer"},
		"NewerVersionInTheLog":    {newerInLog, sqlite.ErrNewer, "version 99", "newer"},
		"EmptyFile":               {cutTo(0), sqlite.ErrCorrupt, "empty or cut off", "backup"},
		"CutInTheHeader":          {cutTo(50), sqlite.ErrCorrupt, "empty or cut off", "backup"},
		"CutAfterTheFirstPage":    {cutTo(4096), sqlite.ErrCorrupt, "", "backup"},
		"CutInTheMiddleOfAPage":   {cutTo(3*4096 + 100), sqlite.ErrCorrupt, "", "backup"},
		"ZeroedPage":              {overwrite(2*4096, make([]byte, 4096)), sqlite.ErrCorrupt, "", "backup"},
		"GarbagePage":             {overwrite(2*4096, bytes.Repeat([]byte("garbage!"), 512)), sqlite.ErrCorrupt, "", "backup"},
		"CounterIsGone":           {statement("DELETE FROM counter"), sqlite.ErrCorrupt, "counter", "backup"},
		"LogWithoutADatabase":     {onlyLog, sqlite.ErrCorrupt, "log", "backup"},
		"DirectoryIsAFile":        {directoryIsFile, nil, "not a directory", "write the directory"},
		"LockIsADirectory":        {lockIsDirectory, nil, "is a directory", ""},
		"NamedPipe":               {namedPipe, nil, "no regular file", ""},
		"TableIsMissing":          {statement("DROP TABLE entries"), sqlite.ErrCorrupt, "entries", "backup"},
		"OlderVersionThanItsDeed": {statement("PRAGMA user_version = 0"), sqlite.ErrCorrupt, "migrate", "backup"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := closed(t, map[string]string{"a": "1", "large": strings.Repeat("x", 20000)})
			c.spoil(t, path)
			before := snapshot(t, path)
			_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err == nil {
				t.Fatal("Open succeeds")
			}
			if c.hint != "" {
				wantRefusal(t, err, c.want, path, c.text, c.hint)
			} else if !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not mention %q and the path", err, c.text)
			}
			if errors.Is(err, sqlite.ErrForeign) && before != snapshot(t, path) {
				t.Error("the file was changed")
			}
		})
	}
}

func directory(t *testing.T, path string) {
	os.Remove(path)
	must(t, os.Mkdir(path, 0o700))
}

func symbolicLink(t *testing.T, path string) {
	must(t, os.Rename(path, path+".real"))
	must(t, os.Symlink(path+".real", path))
}

func hardLink(t *testing.T, path string) { must(t, os.Link(path, path+".other")) }

func otherFile(t *testing.T, path string) {
	writeFile(t, path, bytes.Repeat([]byte("Dear diary, "), 100))
}

func statement(text string) func(t *testing.T, path string) {
	return func(t *testing.T, path string) { execute(t, path, "PRAGMA journal_mode = DELETE; "+text) }
}

func execute(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.Exec(text)
	must(t, err)
	must(t, db.Close())
}

// newerInLog leaves the newer version in the log, as a process that is killed does.
func newerInLog(t *testing.T, path string) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.Exec("PRAGMA user_version = 99")
	must(t, err)
	for _, suffix := range []string{"", "-wal"} {
		writeFile(t, filepath.Join(dir, "copy"+suffix), readFile(t, path+suffix))
	}
	must(t, db.Close())
	for _, suffix := range []string{"", "-wal"} {
		must(t, os.Rename(filepath.Join(dir, "copy"+suffix), path+suffix))
	}
}

func cutTo(size int64) func(t *testing.T, path string) {
	return func(t *testing.T, path string) { must(t, os.Truncate(path, size)) }
}

func overwrite(at int64, with []byte) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(with, at)
		must(t, errors.Join(err, f.Close()))
	}
}

func onlyLog(t *testing.T, path string) {
	writeFile(t, path+"-wal", []byte("acknowledged changes"))
	must(t, os.Remove(path))
}

func directoryIsFile(t *testing.T, path string) {
	dir := filepath.Dir(path)
	must(t, os.RemoveAll(dir))
	writeFile(t, dir, nil)
}

func lockIsDirectory(t *testing.T, path string) {
	must(t, os.Remove(path+".lock"))
	must(t, os.Mkdir(path+".lock", 0o700))
}

// A flipped bit is found when the store is opened or when the entry is read: nobody gets a value that
// was not written, and no entry is missing from a list without an error.
func TestFlippedBitsAreNeverServed(t *testing.T) {
	t.Parallel()
	flipBits(t, 709)
}

// flipBits flips a bit in each byte whose place is a multiple of step.
func flipBits(t *testing.T, step int) {
	want := map[string]string{}
	for i := range 40 {
		want[fmt.Sprintf("key/%02d", i)] = strings.Repeat(fmt.Sprint(i), 1+i*i/4)
	}
	path := closed(t, want)
	whole := readFile(t, path)
	found := 0
	for at := 0; at < len(whole); at += step {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		writeFile(t, path, flipped)
		if damaged(t, path, want) {
			found++
		}
	}
	if found == 0 {
		t.Error("no flip was found")
	}
	t.Logf("%d of %d flips were found; the others changed nothing that is used", found, len(whole)/step+1)
}

// damaged tells whether damage is reported; if it is not, everything has to be as it was written.
func damaged(t *testing.T, path string, want map[string]string) bool {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return true
	}
	defer s.Close()
	got := map[string]string{}
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			return true
		}
		got[e.Key] = string(e.Value)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("a damaged file is served as if it were whole")
	}
	return false
}

func TestOpenNamesTheFieldAtFault(t *testing.T) {
	for name, c := range map[string]sqlite.Config{
		"Path":        {},
		"MaxBytes":    {Path: "x", MaxBytes: -1},
		"MaxLog":      {Path: "x", MaxLog: -1},
		"MaxLogBytes": {Path: "x", MaxLogBytes: -1},
		"MaxQueue":    {Path: "x", MaxQueue: -1},
		"MaxLists":    {Path: "x", MaxLists: -1},
	} {
		if _, err := sqlite.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Open(%+v) = %v", c, err)
		}
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path := closed(t, nil)
	cause := errors.New("no more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := sqlite.Open(ctx, sqlite.Config{Path: path}); !errors.Is(err, cause) {
		t.Errorf("Open gives %v", err)
	}
	open(t, sqlite.Config{Path: path})
}

// closed returns the path of a store that holds some entries and is closed.
func closed(t *testing.T, entries map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dir", "converge.db")
	s := open(t, sqlite.Config{Path: path})
	for key, value := range entries {
		put(t, s, key, value, 0)
	}
	must(t, s.Close())
	return path
}

func snapshot(t *testing.T, path string) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Sprint(err)
	}
	return string(readFile(t, path)) + info.Mode().String()
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var _ store.Store = (*sqlite.Store)(nil)
