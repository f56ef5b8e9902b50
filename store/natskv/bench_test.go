package natskv_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/converge-agents/converge/store/natskv"
)

// BenchmarkPutConcurrent has callers that each replace an entry of their own.
func BenchmarkPutConcurrent(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, callers := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("sync=%t/callers=%d", sync, callers), func(b *testing.B) {
				s := startBroker(b, server.Options{SyncAlways: sync}).open(b, natskv.Config{MaxBytes: 4 << 30, History: 2})
				putConcurrently(b, s, callers)
			})
		}
	}
}

func BenchmarkPutConcurrentOnCluster(b *testing.B) {
	c := startCluster(b, 3)
	s := open(b, natskv.Config{JetStream: connect(b, c.url()), MaxBytes: 1 << 30, History: 2})
	putConcurrently(b, s, 128)
}

func putConcurrently(b *testing.B, s *natskv.Store, callers int) {
	var caller atomic.Int64
	value := make([]byte, 256)
	b.SetParallelism(max(callers/2, 1)) // times GOMAXPROCS
	b.ResetTimer()
	if callers == 1 {
		rev := mustPut(b, s, "only", "", 0)
		for b.Loop() {
			rev = mustPut(b, s, "only", string(value), rev)
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		key := fmt.Sprint("caller/", caller.Add(1))
		rev := mustPut(b, s, key, "", 0)
		for pb.Next() {
			rev = mustPut(b, s, key, string(value), rev)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
}

func BenchmarkGet(b *testing.B) {
	s := startBroker(b, server.Options{}).open(b, natskv.Config{})
	mustPut(b, s, "a", string(make([]byte, 256)), 0)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(context.Background(), "a"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkListPrefix lists 100 of 10,000 entries.
func BenchmarkListPrefix(b *testing.B) {
	s := startBroker(b, server.Options{}).open(b, natskv.Config{})
	for i := range 10000 {
		mustPut(b, s, fmt.Sprintf("folder/%02d/%04d", i%100, i), "value", 0)
	}
	for b.Loop() {
		n := 0
		for _, err := range s.List(context.Background(), "folder/42/") {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 100 {
			b.Fatalf("%d entries", n)
		}
	}
}
