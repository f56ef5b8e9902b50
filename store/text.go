package store

import (
	"context"
	"iter"
	"strings"
)

// TextWatcher is a [Store] that can tell of changes without a copy of each value, since it hands them out as strings,
// which nobody can alter. That is for those who follow many changes and look into few of them.
type TextWatcher interface {
	// WatchText is Watch with values that are strings.
	WatchText(ctx context.Context, prefix string, after Revision) iter.Seq2[TextEvent, error]
}

// TextEvent is an [Event] whose value is a string. Whoever keeps its Key or Value may keep both in memory.
type TextEvent struct {
	Op       Op
	Key      string
	Value    string
	Revision Revision
}

// Entry returns a copy of the entry that the event tells of.
func (e TextEvent) Entry() Entry {
	entry := Entry{Key: strings.Clone(e.Key), Revision: e.Revision}
	if e.Op == OpPut {
		entry.Value = []byte(e.Value)
	}
	return entry
}

// WatchText watches the keys that start with prefix. With a store that is no [TextWatcher] it copies the values.
func WatchText(ctx context.Context, s Store, prefix string, after Revision) iter.Seq2[TextEvent, error] {
	if texts, ok := s.(TextWatcher); ok {
		return texts.WatchText(ctx, prefix, after)
	}
	return func(yield func(TextEvent, error) bool) {
		for ev, err := range s.Watch(ctx, prefix, after) {
			e := ev.Entry
			if !yield(TextEvent{Op: ev.Op, Key: e.Key, Value: string(e.Value), Revision: e.Revision}, err) {
				return
			}
		}
	}
}
