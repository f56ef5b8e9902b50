package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

func init() {
	roles["full-disk"] = fullDisk
	roles["read-only-disk"] = readOnlyDisk
	roles["failing-disk"] = failingDisk
	roles["mount"] = func(dir string) error { return mount(dir, 0, "size=64k") }
}

// TestFullDisk, TestReadOnlyDisk and TestFailingDisk run processes that have a file system, or a limit, of
// their own.

func TestFullDisk(t *testing.T) {
	t.Parallel()
	runOnOwnDisk(t, "full-disk")
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	runOnOwnDisk(t, "read-only-disk")
}

// TestFailingDisk has a disk that takes no more than 64 KiB a file and says so with an error that SQLite has
// no name for. What was acknowledged before has to be there afterwards.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "converge.db")
	cmd, out := start(t, "failing-disk", path)
	told := acknowledged{}
	told.read(out, -1, nil)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the process ends with %v", err)
	}
	if len(told) == 0 {
		t.Error("nothing was acknowledged before the disk failed")
	}
	told.check(t, open(t, sqlite.Config{Path: path}))
}

// runOnOwnDisk runs a role with the rights to mount, which nobody else sees.
func runOnOwnDisk(t *testing.T, role string) {
	dir := t.TempDir()
	if !mayMount(t, dir) {
		t.Skip("no user namespaces here: the test needs a small file system of its own")
	}
	cmd := command(t, role, dir)
	cmd.SysProcAttr = ownMounts()
	if err := cmd.Run(); err != nil {
		t.Errorf("%s ends with %v", role, err)
	}
}

func mayMount(t *testing.T, dir string) bool {
	cmd := command(t, "mount", dir)
	cmd.SysProcAttr = ownMounts()
	cmd.Stderr = nil
	return cmd.Run() == nil || os.Getenv("CONVERGE_REQUIRE_SERVICES") == "1"
}

func ownMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

func mount(dir string, flags uintptr, options string) error {
	if err := syscall.Mount("none", dir, "tmpfs", flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// fullDisk fills a disk until there is no room, and then makes some.
func fullDisk(dir string) error {
	if err := mount(dir, 0, "size=1m"); err != nil {
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 256<<10), 0o600); err != nil {
		return err
	}
	ctx := context.Background()
	config := sqlite.Config{Path: filepath.Join(dir, "converge.db")}
	s, err := sqlite.Open(ctx, config)
	if err != nil {
		return err
	}
	revisions, err := fillDisk(s)
	if !errors.Is(err, store.ErrFull) || len(revisions) == 0 {
		return fmt.Errorf("after %d entries a full disk gives %w, want ErrFull", len(revisions), err)
	}
	if err := everything(s, revisions); err != nil {
		return fmt.Errorf("on a full disk: %w", err)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	rev, err := s.Put(ctx, "room/again", nil, 0)
	if err != nil || rev != store.Revision(len(revisions)+1) {
		return fmt.Errorf("with room again Put gives %d, %w", rev, err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = sqlite.Open(ctx, config); err != nil {
		return err
	}
	return errors.Join(everything(s, revisions), s.Close())
}

// fillDisk creates entries, a few at a time, until there is an error.
func fillDisk(s store.Store) (map[string]store.Revision, error) {
	revisions := map[string]store.Revision{}
	for i := 0; ; i++ {
		key := fmt.Sprintf("fill/%d", i)
		rev, err := s.Put(context.Background(), key, []byte(strings.Repeat("x", 3000)), 0)
		if err != nil {
			return revisions, err
		}
		revisions[key] = rev
	}
}

func everything(s store.Store, revisions map[string]store.Revision) error {
	for key, rev := range revisions {
		if e, err := s.Get(context.Background(), key); err != nil || e.Revision != rev || len(e.Value) != 3000 {
			return fmt.Errorf("%s is %d bytes at %d, %w", key, len(e.Value), e.Revision, err)
		}
	}
	return nil
}

// readOnlyDisk opens a store, and then makes one, on a disk that cannot be written.
func readOnlyDisk(dir string) error {
	if err := mount(dir, 0, "size=1m"); err != nil {
		return err
	}
	ctx := context.Background()
	config := sqlite.Config{Path: filepath.Join(dir, "converge.db")}
	s, err := sqlite.Open(ctx, config)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := remountReadOnly(dir); err != nil {
		return err
	}
	for _, path := range []string{config.Path, filepath.Join(dir, "new.db"), filepath.Join(dir, "sub", "new.db")} {
		_, err := sqlite.Open(ctx, sqlite.Config{Path: path})
		var hinted interface{ Hint() string }
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) || !errors.As(err, &hinted) || !strings.Contains(err.Error(), path) {
			return fmt.Errorf("open on a read-only disk gives %v", err)
		}
	}
	return nil
}

func remountReadOnly(dir string) error {
	return syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
}

// failingDisk writes until the disk fails, and prints what was acknowledged.
func failingDisk(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	watch := make(chan error)
	go func() { watch <- endOf(s) }()
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		return err
	}
	revisions, err := fillDisk(s)
	for key, rev := range revisions {
		fmt.Printf("%s x %d\n", key, rev)
	}
	if !errors.Is(err, sqlite.ErrFailed) || errors.Is(err, store.ErrFull) {
		return fmt.Errorf("Put gives %w, want ErrFailed", err)
	}
	if err := <-watch; !errors.Is(err, sqlite.ErrFailed) {
		return fmt.Errorf("Watch ends with %w, want ErrFailed", err)
	}
	if err := wantAll(s, sqlite.ErrFailed); err != nil {
		return err
	}
	s.Close() // may say that the log could not be moved into the database
	return wantAll(s, store.ErrClosed)
}

func endOf(s store.Store) error {
	for _, err := range s.Watch(context.Background(), "", 0) {
		if err != nil {
			return err
		}
	}
	return errors.New("no error")
}

// wantAll calls each method and wants one error.
func wantAll(s store.Store, want error) error {
	ctx := context.Background()
	answers := map[string]error{"Watch": endOf(s), "Delete": s.Delete(ctx, "fill/0", 1)}
	_, answers["Get"] = s.Get(ctx, "fill/0")
	_, answers["Put"] = s.Put(ctx, "later", nil, 0)
	for _, err := range s.List(ctx, "") {
		answers["List"] = err
	}
	for name, err := range answers {
		if !errors.Is(err, want) {
			return fmt.Errorf("%s gives %w, want %w", name, err, want)
		}
	}
	return nil
}
