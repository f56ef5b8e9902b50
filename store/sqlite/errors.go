package sqlite

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/store"
)

// Errors of [Open] and of a [Store], beside those of package store. Some come with a method
// Hint() string that says what to do.
var (
	ErrLocked  = errors.New("another process has the store open")
	ErrCorrupt = errors.New("the database is damaged")
	ErrForeign = errors.New("the file is not a store of Converge")
	ErrNewer   = errors.New("the store was written by a newer version of Converge")
	ErrFailed  = errors.New("the store has failed and has to be opened again")
	ErrBusy    = errors.New("another program has the database locked")
)

const (
	hintLocked  = "stop the other process, or give each its own file; processes that share a store need PostgreSQL or NATS"
	hintCorrupt = "restore the file from a backup, or move it aside together with its -wal and -shm files to begin with an empty store"
	hintForeign = "choose another path for the store; this file was left as it is"
	hintNewer   = "run the version of Converge that wrote it, or a newer one"
	hintAccess  = "the user that runs Converge has to be able to write the directory and the files of the store"
	hintFull    = "free space on the disk, delete entries, or raise MaxBytes"
)

// damage reports what is wrong with a file.
func damage(format string, args ...any) error {
	return advice.On(fmt.Errorf("%w: %w", ErrCorrupt, fmt.Errorf(format, args...)), hintCorrupt)
}

// code returns the primary result code of SQLite in an error, 0 if there is none.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// explained puts an error of SQLite in the terms of this package.
func explained(err error) error {
	switch code(err) {
	case codes.SQLITE_FULL:
		return advice.On(fmt.Errorf("%w: %w", store.ErrFull, err), hintFull)
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case codes.SQLITE_CORRUPT, codes.SQLITE_NOTADB:
		return damage("%w", err)
	case codes.SQLITE_READONLY, codes.SQLITE_CANTOPEN, codes.SQLITE_PERM:
		return advice.On(err, hintAccess)
	}
	return err
}

func keyError(op, key string, err error) error {
	return fmt.Errorf("%s %.80q: %w", op, key, err)
}

func prefixError(op, prefix string, err error) error {
	return fmt.Errorf("%s keys with prefix %.80q: %w", op, prefix, err)
}
