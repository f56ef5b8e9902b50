package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// fill puts n entries behind the store's back, which is quicker.
func fill(t *testing.T, s *postgres.Store, n int, size int) {
	t.Helper()
	execute(t, pgtest.Shared(t).URL(), strings.ReplaceAll(fmt.Sprintf(`
		INSERT INTO converge.entries SELECT 'k/' || lpad(n::text, 8, '0'), decode(repeat('00', %d), 'hex'), n FROM generate_series(1, %d) n;
		UPDATE converge.counter SET revision = %d, compacted = %d`, size, n, n, n), "converge.", s.Schema()+"."))
}

// A list of many pages shows the moment of its start, while its body writes and lists.
func TestLongListShowsItsMoment(t *testing.T) {
	t.Parallel()
	const n = 5000
	s := open(t, postgres.Config{Connections: 1})
	fill(t, s, n, 10)
	i := 0
	for e, err := range s.List(t.Context(), "k/") {
		if i++; err != nil || e.Key != fmt.Sprintf("k/%08d", i) || int(e.Revision) != i || len(e.Value) != 10 {
			t.Fatalf("entry %d is %s at %d, %v", i, e.Key, e.Revision, err)
		}
		if i%500 != 0 {
			continue
		}
		last := fmt.Sprintf("k/%08d", n-i/500)
		mustPut(t, s, last, "changed", store.Revision(n-i/500))
		mustPut(t, s, fmt.Sprintf("k/%08d-new", n-i), "", 0)
		for _, err := range s.List(t.Context(), last) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if i != n {
		t.Errorf("List gives %d entries, want %d", i, n)
	}
}

// Loops that are left early leave nothing behind: the bound on long lists would show it.
func TestLongListsLeftEarlyLeaveNothing(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{})
	fill(t, s, 1500, 500)
	for range 20 {
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
}

// Long lists within long lists use connections up to a bound, and then say so.
func TestTooManyLongListsGetAnError(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{Patience: 5 * time.Second}) // which is for each of them
	fill(t, s, 1100, 1)
	if err := nest(t, s, 16); err != nil {
		t.Errorf("16 long lists: %v", err)
	}
	err := nest(t, s, 17)
	if err == nil || !strings.Contains(err.Error(), "16 long lists") {
		t.Errorf("17 long lists: %v", err)
	}
	mustPut(t, s, "a", "", 0)
}

func nest(t *testing.T, s store.Store, depth int) error {
	for _, err := range s.List(t.Context(), "k/") {
		if err != nil || depth == 1 {
			return err
		}
		return nest(t, s, depth-1)
	}
	return nil
}

// A list of large values is handed out as it arrives.
func TestListOfLargeValues(t *testing.T) {
	t.Parallel()
	const n = 24
	s := open(t, postgres.Config{})
	fill(t, s, n, store.MaxValue)
	count := 0
	for e, err := range s.List(t.Context(), "") {
		if count++; err != nil || len(e.Value) != store.MaxValue {
			t.Fatalf("entry %d has %d bytes, %v", count, len(e.Value), err)
		}
	}
	if count != n {
		t.Errorf("List gives %d entries", count)
	}
	mustPut(t, s, "k/00000001", "", 1)
}

// A connection that breaks amid a long list ends it with an error: the moment cannot be had again.
func TestLongListEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	p := newProxy(t, pgtest.Shared(t).Addr)
	s := open(t, postgres.Config{URL: pgtest.Shared(t).URL(p.addr())})
	fill(t, s, 20000, 1000)
	count := 0
	var end error
	for _, err := range s.List(t.Context(), "") {
		if count++; err != nil {
			end = err
		}
		if count == 10 {
			p.cut()
		}
	}
	if end == nil || count > 20000 {
		t.Errorf("List whose connection was cut gives %d entries, %v", count, end)
	}
	mustPut(t, s, "k/00000001", "", 1)
}

// Keys are parameters, never text of a statement.
func TestKeysThatLookLikeSQL(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{})
	keys := []string{
		store.Key("'; DROP TABLE entries; --"), store.Key(`\'`), store.Key("$1"), store.Key(`" OR 1=1`), "converge.entries", "converge.version", "NULL",
	}
	for _, key := range keys {
		rev := mustPut(t, s, key, "'; DROP TABLE entries; --\x00\\", 0)
		wantEntry(t, s, key, "'; DROP TABLE entries; --\x00\\", rev)
	}
	count := 0
	for range s.List(t.Context(), "") {
		count++
	}
	if count != len(keys) {
		t.Errorf("%d entries of %d", count, len(keys))
	}
}
