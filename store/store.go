// Package store is the contract of the key-value stores that tasks, pools and registries rest on.
//
// A store maps keys to values. It keeps one counter, the [Revision], that every successful change
// moves forward, and it guarantees four things to all who share it, in one process or in many:
//
//   - Changes are compare-and-set. [Store.Put] and [Store.Delete] name the revision that they replace,
//     so of several writers that saw the same entry exactly one wins and the others learn it.
//   - A change is acknowledged after it is as durable as the store can make it, and it is visible to
//     every later call.
//   - [Store.List] shows one moment: no change that happens while it runs appears in it.
//   - [Store.Watch] shows every change once, in the order of revisions, or says that it cannot.
//
// Values are copied: a caller may change a slice after handing it in and after receiving it. All
// methods are safe for concurrent use. Package storetest holds the suite that every implementation
// passes; package memory holds the one that lives in a process.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// MaxValue is the largest value in bytes.
const MaxValue = 1 << 20

// Errors that callers branch on with [errors.Is]. Implementations wrap them with the operation and
// the key.
var (
	ErrNotFound   = errors.New("no such key")
	ErrConflict   = errors.New("entry is at another revision")
	ErrCompacted  = errors.New("changes since that revision are no longer kept") // watch again from 0
	ErrClosed     = errors.New("store is closed")
	ErrFull       = errors.New("store is full") // deleting makes room
	ErrInvalidKey = errors.New("invalid key")
	ErrTooLarge   = errors.New("value is too large")
)

// Revision is a position in the history of a store. Revisions belong to the store, not to a key: each
// change has one that is higher than every one before it. They need not be consecutive. 0 means "no
// entry".
type Revision uint64

// Entry is a key with its value and the revision of the change that wrote it.
type Entry struct {
	Key      string
	Value    []byte // empty rather than nil for an entry without content
	Revision Revision
}

// Op says what an [Event] reports.
type Op string

// The kinds of events.
const (
	OpPut    Op = "put"    // the entry was created, replaced, or is part of the initial snapshot
	OpDelete Op = "delete" // the key is gone; Value is nil, Revision is that of the deletion
	OpSynced Op = "synced" // the snapshot is complete; only Revision is set: the moment that it shows
)

// Event is one step of a [Store.Watch].
type Event struct {
	Op    Op
	Entry Entry
}

// Store is a key-value store with compare-and-set and watch. Keys follow [CheckKey], prefixes
// [CheckPrefix], values [CheckValue].
//
// A call whose context is done ends with the context's cause; a change that ended so may still have
// happened. After Close every method returns [ErrClosed].
type Store interface {
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// Put writes value if the entry is at revision rev, and returns its new revision. Revision 0 means
	// that the key must not exist. In any other case it changes nothing and returns ErrConflict;
	// a store without room returns ErrFull.
	Put(ctx context.Context, key string, value []byte, rev Revision) (Revision, error)

	// Delete removes the entry if it is at revision rev. It returns ErrNotFound if there is none, and
	// ErrConflict if it is at another revision.
	Delete(ctx context.Context, key string, rev Revision) error

	// List yields the entries whose keys start with prefix, in ascending byte order of keys, as they
	// were at one moment between the start and the first entry. An error is yielded at most once, with
	// a zero Entry, and is the last. The loop's body may call the store.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]

	// Watch yields what happens to the keys that start with prefix.
	//
	// With after 0 it yields every current entry as OpPut in the order of List, one OpSynced, and then
	// each later change in the order of revisions. With another revision, one that this store gave out,
	// it yields each change later than that one, without gaps and without OpSynced.
	//
	// A store keeps a bounded number of changes. Where it does not hold all that are due, since after
	// is too old, or the loop too slow, or after was never given out (the store lost its history), the
	// error is ErrCompacted, and the caller watches from 0 again.
	//
	// The sequence blocks for as long as nothing happens. It ends when the loop breaks, or with one
	// error, yielded with a zero Event: the context's cause, ErrCompacted, ErrClosed, or one of the
	// store's own.
	Watch(ctx context.Context, prefix string, after Revision) iter.Seq2[Event, error]

	// Close ends every call and sequence that is under way and releases what the store holds. Closing
	// twice is fine.
	Close() error
}

// Clock is a [Store] with a time of its own, on which all who share it can agree however their own clocks
// are set: a database server's, say. What has to expire at the same moment for all of them is compared
// with it. A store without it is used by one process, whose clock will do.
type Clock interface {
	// Now returns the store's time, to about a millisecond and the time of the call.
	Now(ctx context.Context) (time.Time, error)
}

// CheckValue reports whether a value can be stored; its error wraps [ErrTooLarge].
func CheckValue(value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrTooLarge, len(value), MaxValue)
	}
	return nil
}
