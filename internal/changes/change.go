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
	"strings"
	"unsafe"

	"github.com/converge-agents/converge/store"
)

// Change is an entry as it was written, or the deletion of one. Apart from its revision, which is set once, it is never
// altered, so whoever has one may share it. [Put] and [Delete] make them: key and value lie behind a Change, in one piece
// of memory that has no pointers. A store has millions of them, and the garbage collector looks into none.
type Change struct {
	Revision store.Revision
	value    uint32 // bytes
	key      uint16 // bytes
	Deleted  bool
}

const header = int(unsafe.Sizeof(Change{}))

// Put returns the change that writes a copy of a value, still without its revision. The key has been checked.
func Put(key string, value []byte) *Change {
	c := room(len(key), len(value))
	copy(c.behind(0, len(key)), key)
	copy(c.behind(len(key), len(value)), value)
	return c
}

// Delete returns the change that deletes an entry, still without its revision. The key has been checked.
func Delete(key string) *Change {
	c := Put(key, nil)
	c.Deleted = true
	return c
}

// room returns a change with room for its key and value.
func room(key, value int) *Change {
	words := make([]uint64, (header+key+value+7)/8)         // aligned as a Change is
	c := (*Change)(unsafe.Pointer(unsafe.SliceData(words))) // which is within: it takes two words
	c.key, c.value = uint16(key), uint32(value)
	return c
}

// behind returns bytes of the key and value, which nobody may alter once others have the change.
func (c *Change) behind(from, length int) []byte {
	if length == 0 {
		return []byte{} // behind the last byte is other memory
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(c), header+from)), length)
}

// Key returns the key. As long as anybody has it, the whole change is in memory.
func (c *Change) Key() string { return text(c.behind(0, int(c.key))) }

// Value returns the value, which must not be altered; it is never nil.
func (c *Change) Value() []byte { return c.behind(int(c.key), int(c.value)) }

// text returns bytes that stay as they are as a string.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Size returns the bytes of key and value.
func (c *Change) Size() int64 { return int64(c.key) + int64(c.value) }

// Entry returns a copy that its receiver may change.
func (c *Change) Entry() store.Entry {
	e := store.Entry{Key: strings.Clone(c.Key()), Revision: c.Revision}
	if !c.Deleted {
		e.Value = Clone(c.Value())
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

// TextEvent returns what a watcher is told of the change, with key and value as they are, for the types do not let them
// be altered.
func (c *Change) TextEvent() store.TextEvent {
	if c.Deleted {
		return store.TextEvent{Op: store.OpDelete, Key: c.Key(), Revision: c.Revision}
	}
	return store.TextEvent{Op: store.OpPut, Key: c.Key(), Value: text(c.Value()), Revision: c.Revision}
}

// Clone copies a value. It never returns nil: an empty value is a value.
func Clone(value []byte) []byte {
	return append(make([]byte, 0, len(value)), value...)
}
