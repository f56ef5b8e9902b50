package wasm

import (
	"io/fs"
	"os"
	"strings"
	"sync"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/sys"
)

// Bounds of a call.
const (
	maxOpen    = 64      // files open at once: descriptors are this process's
	maxWritten = 1 << 30 // bytes
	entrySize  = 4 << 10 // bytes that a file or folder counts for when it is made, so that there is an end to empty ones
)

// session is what the directories of one call have in common.
type session struct {
	mu      sync.Mutex
	open    map[*file]bool
	written int64
}

// take counts bytes that are to be written, or says that there are too many.
func (s *session) take(n int64) experimentalsys.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 0 || n > maxWritten-s.written {
		return experimentalsys.EIO
	}
	s.written += n
	return 0
}

// full reports whether no more files may be open. A call is one thread, so that stays so until it closes one.
func (s *session) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) >= maxOpen
}

func (s *session) add(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*file]bool{}
	}
	s.open[f] = true
}

func (s *session) remove(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, f)
}

// close closes what the module left open.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.open {
		f.real.Close()
	}
}

// folder is a directory as a module sees it. Names are resolved beneath it, whatever links are there.
type folder struct {
	experimentalsys.UnimplementedFS // links, modes and times cannot be set
	root                            *os.Root
	write                           bool
	session                         *session
}

func name(path string) string {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return "."
	}
	return path
}

func errno(err error) experimentalsys.Errno {
	if err == nil {
		return 0
	}
	if code := experimentalsys.UnwrapOSError(err); code != 0 && code != experimentalsys.EIO {
		return code
	}
	return experimentalsys.EACCES // such as that a name leads outside
}

// OpenFile opens regular files and directories. Anything else could hold the call up, or be a device.
func (d *folder) OpenFile(path string, flag experimentalsys.Oflag, _ fs.FileMode) (experimentalsys.File, experimentalsys.Errno) {
	flags, writes := openFlags(flag)
	if writes && !d.write {
		return nil, experimentalsys.EROFS
	}
	if d.session.full() { // before anything is truncated
		return nil, experimentalsys.EAGAIN
	}
	if flag&experimentalsys.O_CREAT != 0 {
		if code := d.session.take(entrySize); code != 0 {
			return nil, code
		}
	}
	opened, err := d.root.OpenFile(name(path), flags|nonblock, 0o644)
	if err != nil {
		return nil, errno(err)
	}
	adapted, _ := (&sysfs.AdaptFS{FS: only{opened}}).OpenFile(".", 0, 0) // which cannot fail
	f := &file{File: adapted, real: opened, session: d.session, appends: flag&experimentalsys.O_APPEND != 0}
	info, err := opened.Stat()
	switch {
	case err != nil, !info.Mode().IsRegular() && !info.IsDir():
		opened.Close()
		return nil, experimentalsys.EACCES
	case flag&experimentalsys.O_DIRECTORY != 0 && !info.IsDir():
		opened.Close()
		return nil, experimentalsys.ENOTDIR
	}
	d.session.add(f)
	return f, 0
}

func openFlags(flag experimentalsys.Oflag) (flags int, writes bool) {
	switch {
	case flag&experimentalsys.O_RDWR != 0:
		flags = os.O_RDWR
	case flag&experimentalsys.O_WRONLY != 0:
		flags = os.O_WRONLY
	}
	for theirs, ours := range map[experimentalsys.Oflag]int{
		experimentalsys.O_CREAT: os.O_CREATE, experimentalsys.O_EXCL: os.O_EXCL, experimentalsys.O_TRUNC: os.O_TRUNC,
	} {
		if flag&theirs != 0 {
			flags |= ours
		}
	}
	return flags, flags != os.O_RDONLY && flags != os.O_EXCL
}

func (d *folder) Stat(path string) (sys.Stat_t, experimentalsys.Errno) {
	return stat(d.root.Stat(name(path)))
}

func (d *folder) Lstat(path string) (sys.Stat_t, experimentalsys.Errno) {
	return stat(d.root.Lstat(name(path)))
}

func stat(info fs.FileInfo, err error) (sys.Stat_t, experimentalsys.Errno) {
	if err != nil {
		return sys.Stat_t{}, errno(err)
	}
	return sys.NewStat_t(info), 0
}

func (d *folder) Readlink(path string) (string, experimentalsys.Errno) {
	target, err := d.root.Readlink(name(path))
	return target, errno(err)
}

func (d *folder) Mkdir(path string, _ fs.FileMode) experimentalsys.Errno {
	return d.change(func() error {
		if code := d.session.take(entrySize); code != 0 {
			return code
		}
		return d.root.Mkdir(name(path), 0o755)
	})
}

func (d *folder) Rename(from, to string) experimentalsys.Errno {
	return d.change(func() error { return d.root.Rename(name(from), name(to)) })
}

func (d *folder) Rmdir(path string) experimentalsys.Errno {
	return d.removeIf(path, true, experimentalsys.ENOTDIR)
}

func (d *folder) Unlink(path string) experimentalsys.Errno {
	return d.removeIf(path, false, experimentalsys.EISDIR)
}

func (d *folder) removeIf(path string, isDir bool, otherwise experimentalsys.Errno) experimentalsys.Errno {
	return d.change(func() error {
		info, err := d.root.Lstat(name(path))
		if err == nil && info.IsDir() != isDir {
			return otherwise
		}
		if err != nil {
			return err
		}
		return d.root.Remove(name(path))
	})
}

func (d *folder) change(change func() error) experimentalsys.Errno {
	if !d.write {
		return experimentalsys.EROFS
	}
	err := change()
	if code, ok := err.(experimentalsys.Errno); ok {
		return code
	}
	return errno(err)
}

// file is an open file or directory of a module.
type file struct {
	experimentalsys.File // the runtime's own; Seek is used of it, and that times cannot be set
	real                 *os.File
	session              *session
	appends              bool
}

// only is a file system that has one file. It hides that this may be a directory, which the runtime would open
// again by its name to rewind it.
type only struct{ *os.File }

func (o only) Open(string) (fs.File, error) { return o, nil }
func (only) Stat() (fs.FileInfo, error)     { return nil, fs.ErrInvalid }

func (f *file) Dev() (uint64, experimentalsys.Errno) {
	st, code := f.Stat()
	return st.Dev, code
}

func (f *file) Ino() (sys.Inode, experimentalsys.Errno) {
	st, code := f.Stat()
	return st.Ino, code
}

func (f *file) IsDir() (bool, experimentalsys.Errno) {
	st, code := f.Stat()
	return st.Mode.IsDir(), code
}

func (f *file) IsAppend() bool { return f.appends }

func (f *file) SetAppend(enable bool) experimentalsys.Errno {
	f.appends = enable
	return 0
}

func (f *file) Stat() (sys.Stat_t, experimentalsys.Errno) { return stat(f.real.Stat()) }

func (f *file) Read(p []byte) (int, experimentalsys.Errno) {
	n, err := f.real.Read(p)
	return atEnd(n, err)
}

func (f *file) Pread(p []byte, at int64) (int, experimentalsys.Errno) {
	n, err := f.real.ReadAt(p, at)
	return atEnd(n, err)
}

// atEnd says that nothing was read at the end of a file, which is no error here.
func atEnd(n int, err error) (int, experimentalsys.Errno) {
	return n, experimentalsys.UnwrapOSError(err)
}

func (f *file) Readdir(n int) ([]experimentalsys.Dirent, experimentalsys.Errno) {
	entries, err := f.real.ReadDir(n)
	var all []experimentalsys.Dirent
	for _, entry := range entries {
		all = append(all, experimentalsys.Dirent{Name: entry.Name(), Type: entry.Type()})
	}
	return all, experimentalsys.UnwrapOSError(err)
}

func (f *file) Write(p []byte) (int, experimentalsys.Errno) {
	if code := f.session.take(int64(len(p))); code != 0 {
		return 0, code
	}
	if f.appends {
		if _, err := f.real.Seek(0, 2); err != nil {
			return 0, errno(err)
		}
	}
	n, err := f.real.Write(p)
	return n, errno(err)
}

func (f *file) Pwrite(p []byte, at int64) (int, experimentalsys.Errno) {
	if code := f.session.take(int64(len(p))); code != 0 {
		return 0, code
	}
	n, err := f.real.WriteAt(p, at)
	return n, errno(err)
}

func (f *file) Truncate(size int64) experimentalsys.Errno {
	if size < 0 {
		return experimentalsys.EINVAL
	}
	if code := f.session.take(size); code != 0 {
		return code
	}
	return errno(f.real.Truncate(size))
}

func (f *file) Sync() experimentalsys.Errno     { return errno(f.real.Sync()) }
func (f *file) Datasync() experimentalsys.Errno { return f.Sync() }

func (f *file) Close() experimentalsys.Errno {
	f.session.remove(f)
	return errno(f.real.Close())
}
