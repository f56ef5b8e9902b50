package store

import (
	"context"
	"fmt"
	"iter"
)

// Seeker is a [Store] that can begin a List in the middle, so that each page of a long list costs what
// it shows.
type Seeker interface {
	// ListAfter is List for the keys that come after a key, which need not exist nor start with prefix. "" comes
	// before all. It refuses what [CheckKey] refuses.
	ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Entry, error]
}

// ListAfter lists the entries whose keys start with prefix and come after a key. With a store that is no
// [Seeker] it reads those before, too.
func ListAfter(ctx context.Context, s Store, prefix, after string) iter.Seq2[Entry, error] {
	if seeker, ok := s.(Seeker); ok {
		return seeker.ListAfter(ctx, prefix, after)
	}
	return func(yield func(Entry, error) bool) {
		if _, err := Begin(prefix, after); err != nil {
			yield(Entry{}, fmt.Errorf("list keys with prefix %.80q: %w", prefix, err))
			return
		}
		for e, err := range s.List(ctx, prefix) {
			if (err != nil || e.Key > after) && !yield(e, err) {
				return
			}
		}
	}
}

// Begin returns the least text, in the order of bytes, from which on a Seeker has to look for the keys that start
// with prefix and come after a key. It need not be a key itself. An error wraps [ErrInvalidKey].
func Begin(prefix, after string) (string, error) {
	if err := CheckPrefix(prefix); err != nil || after == "" {
		return prefix, err
	}
	if err := CheckKey(after); err != nil {
		return "", fmt.Errorf("the key to list after: %w", err)
	}
	return max(prefix, after+"\x01"), nil // a byte that is in no key, and unlike 0 in any text
}
