package changes

import (
	"iter"

	"github.com/converge-agents/converge/store"
)

// Sequence makes a sequence of what run emits. run has to end once emit has returned false. Its error is yielded
// last, as wrap makes it, unless the loop has ended by then.
func Sequence[T any](run func(emit func(T) bool) error, wrap func(error) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		more := true
		err := run(func(v T) bool {
			more = yield(v, nil)
			return more
		})
		if more && err != nil {
			var none T
			yield(none, wrap(err))
		}
	}
}

// Snapshot emits what a watch begins with: the entries that each hands out, which returns the revision of their
// moment, and word that they are complete. more tells whether the watch goes on, from that revision.
func Snapshot(each func(func(store.Entry) bool) (store.Revision, error), emit func(store.Event) bool) (now store.Revision, more bool, err error) {
	more = true
	now, err = each(func(e store.Entry) bool {
		more = emit(store.Event{Op: store.OpPut, Entry: e})
		return more
	})
	if err != nil || !more {
		return now, false, err
	}
	return now, emit(store.Event{Op: store.OpSynced, Entry: store.Entry{Revision: now}}), nil
}
