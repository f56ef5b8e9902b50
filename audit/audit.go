// Package audit keeps receipts: a record of what agents were sent, decided, were allowed and refused, and did,
// that whoever holds it can check without asking those who wrote it.
//
// A [Log] appends [Receipt]s to files in a folder of its own. Each record's hash covers the one before it, so
// nothing can be changed, left out, put in or put in another order without every later hash changing. At each
// sync the log signs a checkpoint, with a key that no agent holds, over the hash of everything so far. What a
// checkpoint covers is on the disk, and a process that is killed loses none of it.
//
// [Verify] reads files and needs nothing else. It finds the first record that is not as it was written, and
// says of what no checkpoint covers that nobody vouches for it. What it cannot know by itself: whose key signed,
// unless it is told ([Check.Key]), and whether there once was more at the end, unless it is told where that was
// ([Check.Head]).
//
// The key can change within a log ([Log.RotateKey]): the one in force names the next one, in a statement that every later
// file holds, and whoever trusts one of them can follow them.
//
// A receipt says which earlier ones led to it ([Receipt.Causes]), so that an act can be traced to the messages
// and tasks that it came from; see [Trace].
package audit

import (
	"errors"
	"fmt"
)

// Errors of this package, to be compared with [errors.Is].
var (
	// ErrBroken says that the log could not be written and takes nothing any more, until it is opened again:
	// what it has not made durable may be lost.
	ErrBroken = errors.New("the audit log is broken")
	// ErrClosed says that the log is closed.
	ErrClosed = errors.New("the audit log is closed")
	// ErrLocked says that another process, or this one, has the folder open.
	ErrLocked = errors.New("the audit folder is in use")
	// ErrDamaged says that files are not as a log has written them.
	ErrDamaged = errors.New("the audit log is damaged")
	// ErrInvalid says that a receipt cannot be recorded as it is.
	ErrInvalid = errors.New("invalid receipt")
)

// BadRecord says where files are not as a log has written them. It is the first such place.
type BadRecord struct {
	File   string
	Offset int64  // of the record in the file, in bytes
	Seq    uint64 // of the receipt that is there or should be there; for a checkpoint, of the receipt before it
	Err    error  // what is wrong
}

// Error implements error.
func (b *BadRecord) Error() string {
	return fmt.Sprintf("%s: offset %d, receipt %d: %v", b.File, b.Offset, b.Seq, b.Err)
}

// Unwrap returns what is wrong.
func (b *BadRecord) Unwrap() error { return b.Err }

// Is reports whether target is [ErrDamaged].
func (b *BadRecord) Is(target error) bool { return target == ErrDamaged }
