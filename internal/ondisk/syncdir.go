// Package ondisk has what files need beyond package os: locks, which the system releases when the process that
// holds one ends, however it ends, names that are durable, and files that are replaced whole.
package ondisk

import (
	"errors"
	"os"
	"runtime"
)

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	if runtime.GOOS == "windows" { // directories cannot be synced there; NTFS logs names by itself
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
