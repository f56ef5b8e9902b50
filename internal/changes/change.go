// Package changes is what stores have in common for their watchers: a bounded log of the latest changes,
// which all of them read by position.
//
// A watcher has no queue of its own, so one that stands still costs nothing; when the log has moved
// past it, it gets [store.ErrCompacted]. A watcher that waits is woken only by a change under its
// prefix, and the others pass it by, so it does not fall off the log while it waits.
//
// The package starts no goroutines.
package changes

import (
	"unsafe"

	"github.com/converge-agents/converge/store"
)

// Change is an entry as it was written, or the deletion of one. It is never altered, so whoever has one
// may share it.
type Change struct {
	Key      string
	Value    []byte
	Revision store.Revision
	Deleted  bool
}

// Put returns the change that writes a copy of a value, still without its revision. A small value is in one piece of
// memory with it, so that there is half as much to allocate and to collect.
func Put(key string, value []byte) *Change {
	c := room(len(value))
	c.Key = key
	c.Value = append(c.Value, value...)
	return c
}

// room returns a change with room for a value.
func room(size int) *Change {
	switch {
	case size <= tiny:
		in := new(struct {
			Change
			value [tiny]byte
		})
		in.Value = in.value[:0:size]
		return &in.Change
	case size <= small:
		in := new(struct {
			Change
			value [small]byte
		})
		in.Value = in.value[:0:size]
		return &in.Change
	}
	return &Change{Value: make([]byte, 0, size)}
}

// Most bytes of values that are in one piece with their change, which has 56 bytes of its own: 128 and 240 in all.
const (
	tiny  = 72
	small = 184
)

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

// TextEvent returns what a watcher is told of the change, with its value as it is, for the type does not let it be altered.
func (c *Change) TextEvent() store.TextEvent {
	if c.Deleted {
		return store.TextEvent{Op: store.OpDelete, Key: c.Key, Revision: c.Revision}
	}
	value := unsafe.String(unsafe.SliceData(c.Value), len(c.Value)) // which stays as it is: nobody alters a Change
	return store.TextEvent{Op: store.OpPut, Key: c.Key, Value: value, Revision: c.Revision}
}

// Clone copies a value. It never returns nil: an empty value is a value.
func Clone(value []byte) []byte {
	return append(make([]byte, 0, len(value)), value...)
}
