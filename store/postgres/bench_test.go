package postgres_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// BenchmarkPutConcurrent replaces entries by compare-and-set, each caller its own. What it shows depends on
// the disk: set TMPDIR to have the server's data on one.
func BenchmarkPutConcurrent(b *testing.B) {
	for _, callers := range []int{1, 16, 128, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, postgres.Config{})
			b.ResetTimer()
			putConcurrently(b, s, callers)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}

func putConcurrently(b *testing.B, s store.Store, callers int) {
	var next atomic.Int64
	var all sync.WaitGroup
	value := make([]byte, 300)
	for caller := range callers {
		all.Go(func() {
			key := fmt.Sprintf("bench/%d", caller)
			for rev := store.Revision(0); next.Add(1) <= int64(b.N); {
				var err error
				if rev, err = s.Put(b.Context(), key, value, rev); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkCreateConcurrent lets the store grow: a put must cost the same in a large one.
func BenchmarkCreateConcurrent(b *testing.B) {
	s := open(b, postgres.Config{})
	var next atomic.Int64
	var all sync.WaitGroup
	value := make([]byte, 300)
	b.ResetTimer()
	for range 256 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := s.Put(b.Context(), fmt.Sprintf("bench/%08x", uint32(i)*2654435761), value, 0); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
}

func BenchmarkGet(b *testing.B) {
	s := open(b, postgres.Config{})
	mustPut(b, s, "a", "value", 0)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(b.Context(), "a"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkTasks claims and reports tasks; see [tasktest.Bench].
func BenchmarkTasks(b *testing.B) { tasktest.Bench(b, open(b, postgres.Config{})) }
