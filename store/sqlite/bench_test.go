package sqlite_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

// BenchmarkPutConcurrent replaces entries by compare-and-set, each synced before it is acknowledged.
func BenchmarkPutConcurrent(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, sqlite.Config{})
			share(b, callers, func(caller, n int) error { return replace(b, s, caller, n) })
		})
	}
}

// BenchmarkLife creates entries under random names, replaces each twice and deletes it: what a task does.
func BenchmarkLife(b *testing.B) {
	for _, size := range []int{300, 1200, 5000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := open(b, sqlite.Config{})
			share(b, 256, func(caller, n int) error { return live(b, s, caller, n, make([]byte, size)) })
		})
	}
}

// live makes n changes.
func live(b *testing.B, s store.Store, caller, n int, value []byte) error {
	var rev store.Revision
	for i := range n {
		var err error
		key := fmt.Sprintf("task/%08x%024x", uint32(caller*1000003+i/4)*2654435761, caller)
		if i%4 == 3 {
			err, rev = s.Delete(b.Context(), key, rev), 0
		} else {
			rev, err = s.Put(b.Context(), key, value, rev)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkGet reads one entry of 100,000.
func BenchmarkGet(b *testing.B) {
	s, keys := stocked(b, 100000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.Get(b.Context(), keys[i*7919%len(keys)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkList reads 100,000 entries.
func BenchmarkList(b *testing.B) {
	s, keys := stocked(b, 100000)
	for b.Loop() {
		n := 0
		for _, err := range s.List(b.Context(), "") {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != len(keys) {
			b.Fatalf("%d entries", n)
		}
	}
}

// BenchmarkOpen opens a store of 100,000 entries of 300 bytes, which it checks.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "converge.db")
	s := open(b, sqlite.Config{Path: path})
	fill(b, s, 100000)
	s.Close()
	for b.Loop() {
		open(b, sqlite.Config{Path: path}).Close()
	}
}

func stocked(b *testing.B, n int) (*sqlite.Store, []string) {
	s := open(b, sqlite.Config{})
	return s, fill(b, s, n)
}

// fill creates n entries under random names.
func fill(b *testing.B, s *sqlite.Store, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("task/%08x%024x", uint32(i)*2654435761, i)
	}
	value := make([]byte, 300)
	var all sync.WaitGroup
	for caller := range 256 {
		all.Go(func() {
			for i := caller; i < n; i += 256 {
				put(b, s, keys[i], string(value), 0)
			}
		})
	}
	all.Wait()
	return keys
}

// share divides b.N rounds among callers.
func share(b *testing.B, callers int, run func(caller, n int) error) {
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for caller := range callers {
		n := b.N / callers
		if caller < b.N%callers {
			n++
		}
		all.Go(func() {
			if err := run(caller, n); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func replace(b *testing.B, s store.Store, caller, n int) error {
	const keys = 16
	value := make([]byte, 300)
	var revisions [keys]store.Revision
	for i := range n {
		k := i % keys
		rev, err := s.Put(b.Context(), fmt.Sprintf("task/%08x%024x", uint32(caller*keys+k)*2654435761, k), value, revisions[k])
		if err != nil {
			return err
		}
		revisions[k] = rev
	}
	return nil
}

// BenchmarkTasks claims and reports tasks; see [tasktest.Bench].
func BenchmarkTasks(b *testing.B) { tasktest.Bench(b, open(b, sqlite.Config{})) }
