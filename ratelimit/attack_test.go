package ratelimit_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
)

// perSecond is a limit with a bucket that is full again after three seconds.
var perSecond = ratelimit.Limit{Rate: 1, Burst: 3}

// TestChurningIdentitiesWinsNoBurstBack has a sender use up its burst and then try to be forgotten:
// with a crowd of other identities that push at the bound, again and again while its bucket refills.
func TestChurningIdentitiesWinsNoBurstBack(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond, MaxSenders: 8})
	got := admitted(l, 10, alice, nil)
	for i := range 500 {
		for j := range 20 {
			l.Take(senderID(100+20*i+j), nil)
		}
		clock.step(10 * time.Millisecond)
		got += admitted(l, 1, alice, nil)
	}
	if most := 3 + 5; got > most {
		t.Errorf("%d messages in five seconds; burst and rate allow %d", got, most)
	}
}

// TestEvictionAndClockSetBackWinNoBurstBack waits until the bucket is full and dropped, and then sets
// the clock back to when it was empty.
func TestEvictionAndClockSetBackWinNoBurstBack(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond, MaxSenders: 1})
	if got := admitted(l, 10, alice, nil); got != 3 {
		t.Fatalf("%d admitted of a burst of 3", got)
	}
	clock.step(3 * time.Second)
	if got := admitted(l, 10, bob, nil); got != 3 {
		t.Fatalf("a full bucket was not dropped for a newcomer, who got %d", got)
	}
	clock.step(-3 * time.Second)
	if got := admitted(l, 10, alice, nil); got != 0 {
		t.Errorf("%d messages more at the time when the bucket was empty", got)
	}
}

// TestClockSetBackAddsNothing shakes the clock; what counts is how far it has come.
func TestClockSetBackAddsNothing(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Global: perSecond, Sender: perSecond, Topic: perSecond})
	got := admitted(l, 10, alice, orders)
	for range 1000 {
		clock.step(-time.Hour)
		got += admitted(l, 5, alice, orders)
		clock.step(time.Hour)
		got += admitted(l, 5, alice, orders)
	}
	if got != 3 {
		t.Errorf("%d admitted of a burst of 3, though no time went by", got)
	}
}

// TestNewcomersAtTheBoundShareOneBucket floods with identities that are used once each.
func TestNewcomersAtTheBoundShareOneBucket(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond, MaxSenders: 2})
	if got := admitted(l, 2, alice, nil) + admitted(l, 2, bob, nil); got != 4 {
		t.Fatalf("%d admitted of the first two", got)
	}
	crowd := 0
	for i := range 1000 {
		crowd += admitted(l, 1, senderID(100+i), nil)
	}
	if crowd != 3 {
		t.Errorf("%d of the crowd are admitted; their one bucket holds 3", crowd)
	}
	if got := admitted(l, 10, alice, nil) + admitted(l, 10, bob, nil); got != 2 {
		t.Errorf("the first two got %d more, not 1 each: the crowd touched their buckets", got)
	}
	expect(t, l.Take(carol, nil), refused(ratelimit.ScopeSender, time.Second))

	clock.step(3 * time.Second) // all are full: there is room again
	if got := admitted(l, 10, senderID(5000), nil) + admitted(l, 10, senderID(5001), nil); got != 6 {
		t.Errorf("two newcomers got %d, not a burst of 3 each", got)
	}
}

// TestSharedBucketAndThenOwnBucketAreOneBurst uses up the shared bucket and then gets a bucket of its
// own, which must not be full.
func TestSharedBucketAndThenOwnBucketAreOneBurst(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond, MaxSenders: 1})
	if got := admitted(l, 1, bob, nil); got != 1 {
		t.Fatal("the first sender is refused")
	}
	got := admitted(l, 10, alice, nil)
	clock.step(time.Second) // bob's bucket is full and makes room
	got += admitted(l, 10, alice, nil)
	if got != 4 {
		t.Errorf("%d admitted in one second; burst and rate allow 4", got)
	}
}

// TestManyTopicsOfOneMessageAtTheBound takes one token from the shared bucket, which is one bucket.
func TestManyTopicsOfOneMessageAtTheBound(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{Topic: perSecond, MaxTopics: 1})
	var many []message.Topic
	for i := range 10 {
		many = append(many, message.MustTopic(fmt.Sprintf("topic.%d", i)))
	}
	if got := admitted(l, 10, alice, orders) + admitted(l, 10, alice, many); got != 6 {
		t.Errorf("%d admitted, where the own bucket and the shared one hold 3 each", got)
	}
}

// TestTopicVariantsWinNoBucket varies what a sender may vary freely.
func TestTopicVariantsWinNoBucket(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{Topic: perSecond})
	got := 0
	for i := range 100 {
		for _, text := range []string{"orders@%d", "orders?n=%d", "orders@%[1]d?n=%[1]d"} {
			topic := message.MustTopic(fmt.Sprintf(text, i+1))
			got += admitted(l, 1, alice, []message.Topic{topic, topic, orders[0]})
		}
	}
	if got != 3 {
		t.Errorf("%d admitted under one namespace with a burst of 3", got)
	}
}

// TestFloodLeavesOthersTheirTokens floods far over all limits of a sender.
func TestFloodLeavesOthersTheirTokens(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{
		Global: ratelimit.Limit{Rate: 1, Burst: 6},
		Sender: perSecond,
	})
	admitted(l, 10_000, alice, orders)
	if got := admitted(l, 10, bob, orders); got != 3 {
		t.Errorf("another sender got %d, not its burst of 3", got)
	}
}

// TestParallelTakesAreAllOrNone lets messages compete from many goroutines for buckets of which one
// scope is scarce. Then it empties each bucket: what it was short of is exactly what was admitted.
func TestParallelTakesAreAllOrNone(t *testing.T) {
	const senders, topics, goroutines, rounds = 5, 4, 8, 400
	for _, burst := range []struct{ global, sender, topic, want int }{
		{global: 1000, sender: 5000, topic: 5000, want: 1000},
		{global: 9000, sender: 100, topic: 5000, want: 100 * senders},
		{global: 9000, sender: 5000, topic: 200, want: 200 * topics},
	} {
		clock := new(clock)
		l := newLimiter(t, clock, ratelimit.Config{
			Global: ratelimit.Limit{Rate: 1e6, Burst: burst.global},
			Sender: ratelimit.Limit{Rate: 1e-5, Burst: burst.sender},
			Topic:  ratelimit.Limit{Rate: 1e-5, Burst: burst.topic},
		})
		var bySender [senders]atomic.Int64
		var byTopic [topics]atomic.Int64
		var taking sync.WaitGroup
		for g := range goroutines {
			taking.Go(func() {
				for i := range rounds {
					s, topic := (g+i)%senders, i%topics
					if l.Take(senderID(s), []message.Topic{numbered(topic)}).OK {
						bySender[s].Add(1)
						byTopic[topic].Add(1)
					}
				}
			})
		}
		taking.Wait()

		total := 0
		for s := range senders {
			n := int(bySender[s].Load())
			total += n
			same := func(int) identity.ID { return senderID(s) }
			if left := drain(l, clock, same, nil); left != burst.sender-n {
				t.Errorf("%+v: sender %d: %d admitted, %d left", burst, s, n, left)
			}
		}
		if total != burst.want {
			t.Errorf("%+v: %d admitted", burst, total)
		}
		for i := range topics {
			others := func(j int) identity.ID { return senderID(1_000_000*(i+1) + j) }
			n := int(byTopic[i].Load())
			if left := drain(l, clock, others, []message.Topic{numbered(i)}); left != burst.topic-n {
				t.Errorf("%+v: topic %d: %d admitted, %d left", burst, i, n, left)
			}
		}
	}
}

// drain returns how many messages are admitted until the bucket of a sender or a topic refuses. It
// gives the global bucket time to refill, which is none for the others.
func drain(l *ratelimit.Limiter, clock *clock, sender func(int) identity.ID, topics []message.Topic) (n int) {
	for {
		switch r := l.Take(sender(n), topics); {
		case r.OK:
			n++
		case r.Scope == ratelimit.ScopeGlobal:
			clock.step(10 * time.Millisecond)
		default:
			return n
		}
	}
}

// TestParallelTakesOverAnUnsteadyClock adds a clock that is set forward and back all the time.
func TestParallelTakesOverAnUnsteadyClock(t *testing.T) {
	const goroutines, rounds = 8, 2000
	clock := new(clock)
	limit := ratelimit.Limit{Rate: 1000, Burst: 5}
	l := newLimiter(t, clock, ratelimit.Config{
		Global: ratelimit.Limit{Rate: 5000, Burst: 20}, Sender: limit, Topic: limit, MaxSenders: 4, MaxTopics: 2,
	})
	var latest, total atomic.Int64
	var bySender [10]atomic.Int64
	var taking sync.WaitGroup
	for g := range goroutines {
		taking.Go(func() {
			for i := range rounds {
				if g == 0 {
					clock.step([]time.Duration{700_000, -500_000, 900_000, -1_000_000}[i%4])
					latest.Store(max(latest.Load(), clock.ns.Load()))
				}
				s := (g + i) % len(bySender)
				if l.Take(senderID(s), []message.Topic{numbered(i % 5)}).OK {
					total.Add(1)
					bySender[s].Add(1)
				}
			}
		})
	}
	taking.Wait()
	elapsed := latest.Load()
	if n, most := total.Load(), 20+5000*elapsed/1e9; n > most {
		t.Errorf("%d admitted in %v, at most %d are allowed", n, time.Duration(elapsed), most)
	}
	for i := range bySender {
		if n, most := bySender[i].Load(), 5+1000*elapsed/1e9; n > most {
			t.Errorf("sender %d: %d admitted in %v, at most %d are allowed", i, n, time.Duration(elapsed), most)
		}
	}
}

// TestMemoryIsBounded is the flood of identities and topics, a short one; the benchmark has ten
// million of them.
func TestMemoryIsBounded(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{Global: wide, Sender: wide, Topic: wide})
	before := heap()
	for i := range 100_000 { // which would take 7 MB if all were kept
		l.Take(senderID(i), []message.Topic{numbered(i)})
	}
	grown := heap() - before
	if grown > 5<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	l.Take(alice, orders)
}

func numbered(i int) message.Topic { return message.MustTopic(fmt.Sprintf("numbered.%d", i)) }
