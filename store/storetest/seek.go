package storetest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/converge-agents/converge/store"
)

func testListAfter(t *testing.T, s store.Store) {
	wantAfter(t, s, "", "a")
	for _, key := range []string{"a", "a-b", "a/b", "a/b/c", "a0", "ab", "b", "A"} {
		put(t, s, key, key, 0)
	}
	for _, c := range []struct {
		prefix, after string
		want          string
	}{
		{"", "", "A a a-b a/b a/b/c a0 ab b"},
		{"", "a", "a-b a/b a/b/c a0 ab b"},
		{"", "a-b", "a/b a/b/c a0 ab b"},
		{"", "a-a", "a-b a/b a/b/c a0 ab b"}, // which does not exist
		{"", "a-bb", "a/b a/b/c a0 ab b"},
		{"", "0", "A a a-b a/b a/b/c a0 ab b"},
		{"", "b", ""},
		{"", "zz", ""},
		{"a", "A", "a a-b a/b a/b/c a0 ab"}, // before the prefix
		{"a", "a", "a-b a/b a/b/c a0 ab"},
		{"a", "aZ", "ab"},
		{"a", "ab", ""},
		{"a", "b", ""}, // behind the prefix
		{"a", "zz", ""},
		{"a/", "a", "a/b a/b/c"},
		{"a/", "a-b", "a/b a/b/c"},
		{"a/", "a/b", "a/b/c"},
		{"a/", "a/b/c", ""},
		{"a/", "a0", ""},
		{"a/b", "a/b", "a/b/c"},
		{"a/b/c", "a/b/c", ""},
		{"c", "a", ""},
	} {
		wantAfter(t, s, c.prefix, c.after, strings.Fields(c.want)...)
	}
	remove(t, s, "a/b", revisionOf(t, s, "a/b"))
	wantAfter(t, s, "a/", "a/b", "a/b/c")
	longest := strings.Repeat("z", store.MaxKey)
	wantAfter(t, s, "", longest)
	put(t, s, longest, "", 0)
	wantAfter(t, s, "", longest[1:], longest)
	wantAfter(t, s, "", longest)
}

// wantAfter checks the keys of a list, and that the entries are those that List shows.
func wantAfter(t *testing.T, s store.Store, prefix, after string, want ...string) {
	t.Helper()
	entries, err := collect(store.ListAfter(t.Context(), s, prefix, after))
	if got := keysOf(entries); err != nil || !slices.Equal(got, want) {
		t.Errorf("ListAfter %q of prefix %q gives %q, %v; want %q", after, prefix, got, err, want)
	}
	for _, e := range entries {
		wantEntry(t, s, e.Key, string(e.Value), e.Revision)
	}
}

// testListAfterInPages reads more than any implementation reads ahead in pages of different lengths, each of which
// it leaves early.
func testListAfterInPages(t *testing.T, s store.Store) {
	const n = pagedKeys
	spread(n, func(i int) { putOrError(t, s, fmt.Sprintf("page/%04d", i)) })
	put(t, s, "page0", "", 0)
	for _, length := range []int{1, 7, 1100} {
		after, seen := "", 0
		if length < 100 { // only the last 50
			after, seen = fmt.Sprintf("page/%04d", n-51), n-50
		}
		for more := true; more; {
			more = false
			count := 0
			for e, err := range store.ListAfter(t.Context(), s, "page/", after) {
				if want := fmt.Sprintf("page/%04d", seen); err != nil || e.Key != want {
					t.Fatalf("in pages of %d, %q follows %q, %v; want %q", length, e.Key, after, err, want)
				}
				after, more = e.Key, true
				seen++
				if count++; count == length {
					break
				}
			}
		}
		if seen != n {
			t.Errorf("pages of %d show %d entries of %d", length, seen, n)
		}
	}
}

func testListAfterSnapshot(t *testing.T, s store.Store) {
	put(t, s, "A", "", 0)
	listsOneMoment(t, s, func() iter.Seq2[store.Entry, error] { return store.ListAfter(t.Context(), s, "", "A") })
}

func testListAfterInvalid(t *testing.T, s store.Store) {
	put(t, s, "a", "", 0)
	for _, after := range []string{"/", "a/", "..", "a b", "a\x00", "\xff", strings.Repeat("a", store.MaxKey+1)} {
		entries, err := collect(store.ListAfter(t.Context(), s, "", after))
		wantError(t, fmt.Sprintf("ListAfter %.20q", after), err, store.ErrInvalidKey)
		if len(entries) > 0 {
			t.Errorf("ListAfter %.20q gives %d entries", after, len(entries))
		}
	}
	_, err := collect(store.ListAfter(t.Context(), s, "//", "a"))
	wantError(t, "ListAfter of an invalid prefix", err, store.ErrInvalidKey)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = collect(store.ListAfter(ctx, s, "", "a"))
	wantError(t, "ListAfter with a context that is done", err, context.Canceled)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = collect(store.ListAfter(t.Context(), s, "", "a"))
	wantError(t, "ListAfter of a closed store", err, store.ErrClosed)
}
