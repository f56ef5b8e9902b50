package postgres_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// The server is killed and started again under load. Each writer counts up in a key of its own by compare-and-set: a lost
// write, or one that happened twice, would make its next one fail, and shows as a gap in the watch.
func TestServerKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	const writers = 12
	server := pgtest.New(t)
	config := postgres.Config{URL: server.URL(), Schema: pgtest.Name(), Patience: time.Minute}
	stores := []*postgres.Store{open(t, config), open(t, config)}
	ctx, stop := context.WithCancel(t.Context())
	var written atomic.Int64
	var load, watchers sync.WaitGroup
	counts := make([]int, writers)
	for w := range writers {
		load.Go(func() { counts[w] = countUp(t, ctx, stores[w%2], fmt.Sprintf("count/%02d", w), &written) })
	}
	for _, s := range stores {
		watchers.Go(func() { checkCounts(t, s, writers) })
	}
	for range 3 {
		await(t, &written, 300)
		server.Kill()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	await(t, &written, 300)
	stop()
	load.Wait()
	for w, count := range counts {
		e, err := stores[1-w%2].Get(t.Context(), fmt.Sprintf("count/%02d", w))
		if err != nil || string(e.Value) != strconv.Itoa(count) {
			t.Errorf("writer %d counted to %d, the store holds %q, %v", w, count, e.Value, err)
		}
	}
	mustPut(t, stores[0], "count/end", "", 0)
	watchers.Wait()
}

// await returns after n more writes.
func await(t *testing.T, written *atomic.Int64, n int64) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for start := written.Load(); written.Load() < start+n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d writes in a minute, want %d", written.Load()-start, n)
		}
	}
}

// countUp returns how far it came when ctx ended; each step is acknowledged before the next.
func countUp(t *testing.T, ctx context.Context, s store.Store, key string, written *atomic.Int64) int {
	var rev store.Revision
	for n := 1; ; n++ {
		next, err := s.Put(t.Context(), key, []byte(strconv.Itoa(n)), rev)
		if err != nil {
			t.Errorf("step %d: %v", n, err)
			return n - 1
		}
		rev = next
		if written.Add(1); ctx.Err() != nil {
			return n
		}
	}
}

// checkCounts watches until "count/end" comes: each count goes up by one.
func checkCounts(t *testing.T, s store.Store, writers int) {
	last := map[string]int{}
	for ev, err := range s.Watch(t.Context(), "count/", 0) {
		if err != nil {
			t.Errorf("Watch: %v", err)
			return
		}
		if ev.Entry.Key == "count/end" {
			break
		}
		n, _ := strconv.Atoi(string(ev.Entry.Value))
		if before, known := last[ev.Entry.Key]; known && n != before+1 {
			t.Errorf("%s goes from %d to %d", ev.Entry.Key, before, n)
		}
		if ev.Op != store.OpSynced {
			last[ev.Entry.Key] = n
		}
	}
	if len(last) != writers {
		t.Errorf("the watch saw %d writers", len(last))
	}
}
