package sqlite_test

import (
	"fmt"
	"sync"
	"testing"

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
