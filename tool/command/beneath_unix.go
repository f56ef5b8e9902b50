//go:build unix

package command

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a file below a directory. Both are without symbolic links: where there is one on the way, it was put
// there since, and is not followed.
func openBeneath(dir, path string) (*os.File, error) {
	rel, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, errOutside
	}
	at, err := os.Open(dir)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer func() { at.Close() }()
	folder, name := filepath.Split(rel)
	for _, step := range strings.FieldsFunc(folder, func(r rune) bool { return r == filepath.Separator }) {
		next, err := openAt(at, step, os.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, withoutPath(err)
		}
		at.Close()
		at = next
	}
	file, err := openRegular(func(name string, flags int, _ os.FileMode) (*os.File, error) { return openAt(at, name, flags) }, name)
	if err != nil {
		return nil, withoutPath(err)
	}
	return file, nil
}

// openAt opens what has a name in a directory, unless that is a symbolic link.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}
