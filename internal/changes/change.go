// Package changes is what stores have in common for their watchers: a bounded log of the latest changes,
// which all of them read by position.
//
// A watcher has no queue of its own, so one that stands still costs nothing; when the log has moved
// past it, it gets [store.ErrCompacted]. A watcher that waits is woken only by a change under its
// prefix, and the others pass it by, so it does not fall off the log while it waits.
//
// The package starts no goroutines.
package changes

import "github.com/converge-agents/converge/store"

// Change is an entry as it was written, or the deletion of one. It is never altered, so whoever has one
// may share it.
type Change struct {
	Key      string
	Value    []byte
	Revision store.Revision
	Deleted  bool
}

// Size returns the bytes of key and value.
func (c *Change) Size() int64 { return int64(len(c.Key) + len(c.Value)) }

// Entry returns a copy that its receiver may change.
func (c *Change) Entry() store.Entry {
	e := store.Entry{Key: c.Key, Revision: c.Revision}
	if !c.Deleted {
		e.Value = Clone(c.Value)
	}
	return e
}

// Event returns what a watcher is told of the change, as a copy.
func (c *Change) Event() store.Event {
	if c.Deleted {
		return store.Event{Op: store.OpDelete, Entry: c.Entry()}
	}
	return store.Event{Op: store.OpPut, Entry: c.Entry()}
}

// Clone copies a value. It never returns nil: an empty value is a value.
func Clone(value []byte) []byte {
	return append(make([]byte, 0, len(value)), value...)
}
