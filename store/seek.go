package store

import (
	"context"
	"iter"
)

// Seeker is a [Store] that can begin a List in the middle, so that each page of a long list costs what
// it shows.
type Seeker interface {
	// ListAfter is List for the keys that come after a key, which need not exist. "" comes before all.
	ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Entry, error]
}

// ListAfter lists the entries whose keys start with prefix and come after a key. With a store that is no
// [Seeker] it reads those before, too.
func ListAfter(ctx context.Context, s Store, prefix, after string) iter.Seq2[Entry, error] {
	if seeker, ok := s.(Seeker); ok {
		return seeker.ListAfter(ctx, prefix, after)
	}
	return func(yield func(Entry, error) bool) {
		for e, err := range s.List(ctx, prefix) {
			if (err != nil || e.Key > after) && !yield(e, err) {
				return
			}
		}
	}
}
