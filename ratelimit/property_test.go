package ratelimit_test

import (
	"fmt"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
)

// TestAdmissionsStayWithinBurstPlusRate runs random schedules: limits of any rate, a clock that goes
// forward and back, more senders and topics than there is room for. Each bucket's admissions are held
// against the guarantee, in exact arithmetic. For a million schedules: -rapid.checks=1000000.
func TestAdmissionsStayWithinBurstPlusRate(t *testing.T) {
	topics := make([][]message.Topic, 1<<4)
	for set := range topics {
		for i := range 4 {
			if set>>i&1 == 1 {
				topics[set] = append(topics[set], numbered(i))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := ratelimit.Config{
			Global:     genLimit().Draw(t, "global"),
			Sender:     genLimit().Draw(t, "sender"),
			Topic:      genLimit().Draw(t, "topic"),
			MaxSenders: rapid.IntRange(1, 4).Draw(t, "max senders"),
			MaxTopics:  rapid.IntRange(1, 4).Draw(t, "max topics"),
		}
		clock := new(clock)
		c.Now = clock.Now
		l, err := ratelimit.New(c)
		if err != nil {
			t.Fatal(err)
		}
		global, senders, perTopic := newTally(c.Global), make([]*tally, 6), make([]*tally, 4)
		for i := range senders {
			senders[i] = newTally(c.Sender)
		}
		for i := range perTopic {
			perTopic[i] = newTally(c.Topic)
		}
		for _, op := range rapid.SliceOfN(genOp(), 1, 40).Draw(t, "ops") {
			clock.step(op.step)
			for range op.messages {
				if !l.Take(senderID(op.sender), topics[op.topics]).OK {
					continue
				}
				now := clock.ns.Load()
				global.count(t, "global", now)
				senders[op.sender].count(t, fmt.Sprint("sender ", op.sender), now)
				for i := range perTopic {
					if op.topics>>i&1 == 1 {
						perTopic[i].count(t, fmt.Sprint("topic ", i), now)
					}
				}
			}
		}
	})
}

// op is a step of the clock and messages after it; bit i of topics stands for topic i.
type op struct {
	step                     time.Duration
	messages, sender, topics int
}

func genLimit() *rapid.Generator[ratelimit.Limit] {
	rates := []float64{0, 0.01, 0.1, 1.0 / 3, 1, 2.5, 10, 999.9, 150_000, 7e8, 1e9, 1e12, math.Inf(1)}
	return rapid.Custom(func(t *rapid.T) ratelimit.Limit {
		return ratelimit.Limit{
			Rate:  rapid.SampledFrom(rates).Draw(t, "rate"),
			Burst: rapid.IntRange(1, 5).Draw(t, "burst"),
		}
	})
}

func genOp() *rapid.Generator[op] {
	units := []time.Duration{1, time.Microsecond, time.Millisecond, 333 * time.Millisecond, time.Second, 10 * time.Second}
	return rapid.Custom(func(t *rapid.T) op {
		return op{
			step:     rapid.SampledFrom(units).Draw(t, "unit") * time.Duration(rapid.IntRange(-4, 5).Draw(t, "units")),
			messages: rapid.IntRange(1, 4).Draw(t, "messages"),
			sender:   rapid.IntRange(0, 5).Draw(t, "sender"),
			topics:   rapid.IntRange(0, 15).Draw(t, "topics"),
		}
	})
}

// tally counts the admissions of a bucket.
type tally struct {
	limit         ratelimit.Limit
	rate          *big.Rat // tokens a nanosecond; nil if unlimited
	n             int64
	first, latest int64
}

func newTally(limit ratelimit.Limit) *tally {
	a := &tally{limit: limit}
	if !math.IsInf(limit.Rate, 1) {
		a.rate = new(big.Rat).SetFloat64(limit.Rate)
		a.rate.Quo(a.rate, big.NewRat(1e9, 1))
	}
	return a
}

func (a *tally) count(t *rapid.T, name string, now int64) {
	if a.n == 0 {
		a.first, a.latest = now, now
	}
	a.n++
	a.latest = max(a.latest, now)
	if a.rate == nil {
		return
	}
	most := new(big.Rat).Mul(a.rate, new(big.Rat).SetInt64(a.latest-a.first))
	if a.limit.Rate != 0 {
		most.Add(most, new(big.Rat).SetInt64(int64(a.limit.Burst)))
	}
	if new(big.Rat).SetInt64(a.n).Cmp(most) > 0 {
		t.Fatalf("%s: %d admitted in %v by %+v", name, a.n, time.Duration(a.latest-a.first), a.limit)
	}
}

// TestAgainstTextbookBuckets compares every result with that of plain token buckets: a number of
// tokens, refilled by the time that went by. They are exact and forget nothing.
func TestAgainstTextbookBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SliceOfN(genLimit(), 3, 3).Draw(t, "limits")
		clock := new(clock)
		l, err := ratelimit.New(ratelimit.Config{Global: limits[0], Sender: limits[1], Topic: limits[2], Now: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		model := map[string]*textbook{}
		for _, op := range rapid.SliceOfN(genOp(), 1, 60).Draw(t, "ops") {
			clock.step(max(op.step, -op.step))
			keys := []string{"global", fmt.Sprint("sender ", op.sender)}
			scopes := []ratelimit.Scope{ratelimit.ScopeGlobal, ratelimit.ScopeSender}
			var topics []message.Topic
			for i := range 4 {
				if op.topics>>i&1 == 1 {
					keys, scopes = append(keys, fmt.Sprint("topic ", i)), append(scopes, ratelimit.ScopeTopic)
					topics = append(topics, numbered(i))
				}
			}
			for range op.messages {
				var buckets []*textbook
				want := ratelimit.Result{OK: true}
				for i, key := range keys {
					if model[key] == nil {
						model[key] = newTextbook(limits[scopes[i]-ratelimit.ScopeGlobal], clock.ns.Load())
					}
					buckets = append(buckets, model[key])
					if wait := model[key].wait(clock.ns.Load()); wait > 0 {
						if want.OK {
							want = ratelimit.Result{Scope: scopes[i]}
						}
						want.RetryAfter = max(want.RetryAfter, wait)
					}
				}
				if got := l.Take(senderID(op.sender), topics); got != want {
					t.Fatalf("at %v: got %+v, want %+v", time.Duration(clock.ns.Load()), got, want)
				}
				if want.OK {
					for _, b := range buckets {
						b.tokens.Sub(b.tokens, one)
					}
				}
				if rapid.Bool().Draw(t, "wait for it") && want.RetryAfter < time.Hour {
					clock.step(want.RetryAfter)
				}
			}
		}
	})
}

var one = big.NewRat(1, 1)

// textbook is a token bucket as it is in textbooks, with fractions of a token. Its rate is that of the
// limit, rounded down to whole nanoseconds for each token.
type textbook struct {
	limit  ratelimit.Limit
	period *big.Rat // nanoseconds a token
	tokens *big.Rat
	last   int64
}

func newTextbook(limit ratelimit.Limit, now int64) *textbook {
	b := &textbook{limit: limit, last: now, tokens: new(big.Rat).SetInt64(int64(limit.Burst))}
	if limit.Rate > 0 && !math.IsInf(limit.Rate, 1) {
		b.period = ceil(new(big.Rat).Quo(big.NewRat(1e9, 1), new(big.Rat).SetFloat64(limit.Rate)))
	}
	return b
}

// wait refills the bucket and returns how long to wait for a token.
func (b *textbook) wait(now int64) time.Duration {
	switch {
	case b.limit.Rate == 0:
		return ratelimit.Never
	case b.period == nil:
		b.tokens.SetInt64(1)
		return 0
	}
	gained := new(big.Rat).Quo(new(big.Rat).SetInt64(now-b.last), b.period)
	b.last = now
	b.tokens.Add(b.tokens, gained)
	if burst := new(big.Rat).SetInt64(int64(b.limit.Burst)); b.tokens.Cmp(burst) > 0 {
		b.tokens = burst
	}
	missing := new(big.Rat).Sub(one, b.tokens)
	if missing.Sign() <= 0 {
		return 0
	}
	return time.Duration(ceil(missing.Mul(missing, b.period)).Num().Int64())
}

// ceil rounds up to a whole number.
func ceil(x *big.Rat) *big.Rat {
	n := new(big.Int).Add(x.Num(), x.Denom())
	n.Sub(n, big.NewInt(1))
	return new(big.Rat).SetInt(n.Quo(n, x.Denom()))
}
