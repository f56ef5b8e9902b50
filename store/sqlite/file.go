package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// locate returns the path of the database without symbolic links in its directory, which is made if
// it is missing: a file that goes by two names would have two locks.
func locate(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", access(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", access(err)
	}
	return filepath.Join(dir, name), nil
}

// access adds advice to an error of the file system.
func access(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR):
		return advice.On(err, hintAccess)
	case errors.Is(err, syscall.ENOSPC):
		return advice.On(err, hintFull)
	}
	return err
}

// exists tells whether there is a database. It refuses what is no plain file with one name.
func exists(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, checkOrphan(path + "-wal")
	}
	if err != nil {
		return false, access(err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return false, advice.On(errors.New("it is a directory"), "name a file in it, such as converge.db")
	case mode&fs.ModeSymlink != 0:
		return false, advice.On(errors.New("it is a symbolic link"), "name the file that it points to")
	case !mode.IsRegular():
		return false, fmt.Errorf("it is no regular file (%s)", mode.Type())
	case links(info) > 1:
		return false, advice.On(fmt.Errorf("the file has %d names", links(info)), "leave one hard link: SQLite finds its log by name")
	}
	return true, nil
}

// checkOrphan refuses to make a database beside the log of one that is gone.
func checkOrphan(wal string) error {
	if info, err := os.Lstat(wal); err == nil && info.Size() > 0 {
		return damage("the file is gone, but its log %q is there", wal)
	}
	return nil
}

// create makes an empty database. It comes into being under another name, so that one at path is
// always whole, and one that is empty was cut off.
func create(path string) error {
	draft := path + ".new"
	for _, name := range []string{draft, draft + "-journal"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return access(err)
		}
	}
	f, err := os.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return access(err)
	}
	f.Close()
	if err := fill(draft); err != nil {
		return explained(err)
	}
	if err := syncFile(draft); err != nil {
		return access(err)
	}
	if err := os.Rename(draft, path); err != nil {
		return access(err)
	}
	return ondisk.SyncDir(filepath.Dir(path))
}

// fill writes the schema without a journal and without syncs: nobody goes on with a draft that was left.
func fill(path string) error {
	c, err := dial(path, []setting{{"journal_mode", "memory"}, {"synchronous", int64(0)}, {"page_size", int64(pageSize)}})
	if err != nil {
		return err
	}
	err = c.exec(fmt.Sprintf("PRAGMA application_id = %d", applicationID))
	if err == nil {
		err = migrate(c, migrations)
	}
	return errors.Join(err, c.close())
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
