package ratelimit_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
)

// wide is a limit that no benchmark reaches.
var wide = ratelimit.Limit{Rate: 1e9, Burst: 1e9}

// BenchmarkTakeOneCore takes from three buckets, those of 1,000 senders and 16 topics in turn.
func BenchmarkTakeOneCore(b *testing.B) {
	l := newBenchLimiter(b)
	senders, topics := benchSenders(1000), benchTopics(16)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if r := l.Take(senders[i%1000], topics[i%16]); !r.OK {
			b.Fatal(r)
		}
		i++
	}
}

// BenchmarkTakeParallel is the same from all cores, over all the senders that the limiter keeps.
func BenchmarkTakeParallel(b *testing.B) {
	const senderCount = ratelimit.DefaultMaxSenders
	l := newBenchLimiter(b)
	senders, topics := benchSenders(senderCount), benchTopics(16)
	var offset atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		i := int(offset.Add(senderCount / 8))
		for p.Next() {
			if r := l.Take(senders[i%senderCount], topics[i%16]); !r.OK {
				b.Error(r)
			}
			i++
		}
	})
}

// BenchmarkTakeTenMillionSenders is the flood of identities: every message has a sender of its own.
func BenchmarkTakeTenMillionSenders(b *testing.B) {
	topics := benchTopics(16)
	for b.Loop() {
		l := newBenchLimiter(b)
		before := heap()
		for i := range 10_000_000 {
			l.Take(senderID(i), topics[i%16])
		}
		b.ReportMetric(float64(heap()-before), "bytes")
		runtime.KeepAlive(l)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e7, "ns/take")
}

func BenchmarkBucketTake(b *testing.B) {
	now := time.Now()
	bucket, err := ratelimit.NewBucket(wide, now)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _ := bucket.Take(1, now); !ok {
			now = now.Add(time.Second)
		}
	}
}

func newBenchLimiter(b *testing.B) *ratelimit.Limiter {
	b.Helper()
	l, err := ratelimit.New(ratelimit.Config{Global: wide, Sender: wide, Topic: wide})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func senderID(i int) (id identity.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(i)+1)
	return id
}

func benchSenders(n int) []identity.ID {
	ids := make([]identity.ID, n)
	for i := range ids {
		ids[i] = senderID(i)
	}
	return ids
}

func benchTopics(n int) [][]message.Topic {
	topics := make([][]message.Topic, n)
	for i := range topics {
		topics[i] = []message.Topic{message.MustTopic(fmt.Sprintf("orders.created.n%d", i))}
	}
	return topics
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
