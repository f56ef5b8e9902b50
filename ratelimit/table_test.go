package ratelimit

import (
	"maps"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// TestTableAgainstMap uses keys that collide: their slots wrap around the end of the table.
func TestTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab table
		model := map[uint64]int64{}
		key := func(t *rapid.T) uint64 {
			return rapid.Uint64Range(0, 5).Draw(t, "high")<<floorShift | rapid.SampledFrom([]uint64{1, 2, 5, 6, 7, 14, 15, 31}).Draw(t, "low")
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, full := key(t), rapid.Int64Range(-5, 5).Draw(t, "full")
				tab.put(k, full)
				model[k] = full
			},
			"get": func(t *rapid.T) {
				k := key(t)
				full, ok := tab.get(k)
				if want, there := model[k]; ok != there || ok && full != want {
					t.Fatalf("key %x is %d, %t in the table and %d, %t in the map", k, full, ok, want, there)
				}
			},
			"drop": func(t *rapid.T) {
				now := rapid.Int64Range(-6, 6).Draw(t, "now")
				before := len(model)
				maps.DeleteFunc(model, func(_ uint64, full int64) bool { return full <= now })
				if n := tab.drop(now); n != before-len(model) {
					t.Fatalf("%d dropped, not %d", n, before-len(model))
				}
			},
			"": func(t *rapid.T) {
				if tab.used != len(model) || 4*tab.used > 3*len(tab.buckets) {
					t.Fatalf("%d of %d slots are used for %d buckets", tab.used, len(tab.buckets), len(model))
				}
			},
		})
	})
}

func TestDroppedBucketLeavesItsFloor(t *testing.T) {
	var tab table
	tab.put(1, 10)
	tab.put(2, 20) // has the floor in common with key 1
	tab.put(1<<floorShift, 30)
	if n := tab.drop(20); n != 2 {
		t.Fatalf("%d dropped", n)
	}
	for key, want := range map[uint64]int64{1: 20, 2: 20, 1 << floorShift: 0} {
		if got := tab.floor(key); got != want {
			t.Errorf("the floor of key %x is %d, not %d", key, got, want)
		}
	}
	tab.raise(1, 15)
	if got := tab.floor(1); got != 20 {
		t.Errorf("the floor went down to %d", got)
	}
}

// TestBucketsStayWithinTheirNumber counts the buckets after a storm of senders and topics, of which
// some are refused and some are dropped on the way.
func TestBucketsStayWithinTheirNumber(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	var mu sync.Mutex
	now := start
	l, err := New(Config{
		Global: Limit{Rate: 1e5, Burst: 50}, Sender: Limit{Rate: 1e4, Burst: 3}, Topic: Limit{Rate: 1e4, Burst: 3},
		MaxSenders: 100, MaxTopics: 50,
		Now: func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(7 * time.Microsecond); return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	topics := make([]message.Topic, 200)
	for i := range topics {
		topics[i] = message.MustTopic("t." + identity.ID{byte(i)}.String())
	}
	var taking sync.WaitGroup
	for g := range 4 {
		taking.Go(func() {
			for i := range 5000 {
				two := topics[i%100 : i%100+2]
				l.Take(identity.ID{byte(i), byte(i >> 8), byte(g)}, []message.Topic{two[0], two[1], two[0]})
			}
		})
	}
	taking.Wait()

	var senders, perTopic int64
	for i := range l.shards {
		if s := l.shards[i].Load(); s != nil {
			senders += int64(s.senders.used)
			perTopic += int64(s.topics.used)
		}
	}
	if senders != l.senders.live.Load() || senders > 100 || senders < 10 {
		t.Errorf("%d senders have buckets, %d are counted, 100 are allowed", senders, l.senders.live.Load())
	}
	if perTopic != l.topics.live.Load() || perTopic > 50 || perTopic < 10 {
		t.Errorf("%d topics have buckets, %d are counted, 50 are allowed", perTopic, l.topics.live.Load())
	}
}
