package ondisk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace has a file of that mode hold data. It is written and synced before it gets its name, so that others, and those
// who come after a crash, see the old file or the new one, whole.
func Replace(path string, data []byte, mode fs.FileMode) error {
	draft, err := os.CreateTemp(filepath.Dir(path), ".draft-*") // of mode 0600
	if err != nil {
		return err
	}
	if err = write(draft, data, mode); err == nil {
		err = os.Rename(draft.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(draft.Name()))
	}
	return SyncDir(filepath.Dir(path))
}

// write fills, syncs and closes a file.
func write(f *os.File, data []byte, mode fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	return errors.Join(err, f.Close())
}

// WithoutPath leaves out what an [fs.PathError] would say twice where the path is named already.
func WithoutPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
