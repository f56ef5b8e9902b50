package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/converge-agents/converge/internal/advice"
)

// maxPath is how long the path of a socket may be, its last zero byte aside.
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// listen takes the socket of a state directory, and returns the listener and what gives the socket back. A
// socket that a process left behind which has died is replaced; one that is served is not.
func listen(dir string) (*net.UnixListener, func() error, error) {
	path := socketPath(dir)
	if len(path) > maxPath {
		return nil, nil, advice.On(fmt.Errorf("%w: %q has %d bytes where at most %d are allowed", ErrTooLong, path, len(path), maxPath),
			"choose a state directory with a shorter path (data), or start in a folder above it")
	}
	if err := checkDir(dir); err != nil {
		return nil, nil, err
	}
	unlock, err := lock(filepath.Join(dir, "control.lock"), path)
	if err != nil {
		return nil, nil, err
	}
	listener, err := bind(path)
	if err != nil {
		return nil, nil, errors.Join(err, unlock())
	}
	return listener, func() error {
		err := listener.Close() // again: it removes nothing
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		if removal := os.Remove(path); !errors.Is(removal, fs.ErrNotExist) {
			err = errors.Join(err, removal)
		}
		return errors.Join(err, unlock())
	}, nil
}

// bind listens on a path of which nobody else has the lock.
func bind(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, advice.On(fmt.Errorf("%q is there, and is no socket", path), "move it away")
	default: // of a process that has died
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close(), os.Remove(path))
	}
	return listener, nil
}
