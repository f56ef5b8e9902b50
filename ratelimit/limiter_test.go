package ratelimit_test

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
)

var (
	alice, bob, carol = senderID(1), senderID(2), senderID(3)
	orders            = []message.Topic{message.MustTopic("orders")}
	refunds           = []message.Topic{message.MustTopic("refunds")}
)

// clock is a clock to set.
type clock struct{ ns atomic.Int64 }

func (c *clock) Now() time.Time        { return time.Unix(1_000_000, c.ns.Load()) }
func (c *clock) step(by time.Duration) { c.ns.Add(int64(by)) }

// newLimiter makes a limiter with the clock. Scopes without a limit are unlimited, not denied.
func newLimiter(t testing.TB, clock *clock, c ratelimit.Config) *ratelimit.Limiter {
	t.Helper()
	for _, limit := range []*ratelimit.Limit{&c.Global, &c.Sender, &c.Topic} {
		if *limit == (ratelimit.Limit{}) {
			*limit = ratelimit.Unlimited
		}
	}
	c.Now = clock.Now
	l, err := ratelimit.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// admitted returns how many of n messages are admitted.
func admitted(l *ratelimit.Limiter, n int, sender identity.ID, topics []message.Topic) (count int) {
	for range n {
		if l.Take(sender, topics).OK {
			count++
		}
	}
	return count
}

func expect(t *testing.T, got, want ratelimit.Result) {
	t.Helper()
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func refused(scope ratelimit.Scope, retryAfter time.Duration) ratelimit.Result {
	return ratelimit.Result{Scope: scope, RetryAfter: retryAfter}
}

func TestZeroConfigDenies(t *testing.T) {
	l, err := ratelimit.New(ratelimit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, l.Take(alice, nil), refused(ratelimit.ScopeGlobal, ratelimit.Never))
}

func TestDenyingScopes(t *testing.T) {
	deny, open := ratelimit.Limit{Burst: 5}, ratelimit.Unlimited
	for _, c := range []struct {
		config ratelimit.Config
		topics []message.Topic
		want   ratelimit.Result
	}{
		{ratelimit.Config{Global: deny, Sender: deny, Topic: deny}, orders, refused(ratelimit.ScopeGlobal, ratelimit.Never)},
		{ratelimit.Config{Global: open, Sender: deny, Topic: deny}, orders, refused(ratelimit.ScopeSender, ratelimit.Never)},
		{ratelimit.Config{Global: open, Sender: open, Topic: deny}, orders, refused(ratelimit.ScopeTopic, ratelimit.Never)},
		{ratelimit.Config{Global: open, Sender: open, Topic: deny}, nil, ratelimit.Result{OK: true}},
		{ratelimit.Config{Global: open, Sender: open, Topic: open}, orders, ratelimit.Result{OK: true}},
	} {
		l, err := ratelimit.New(c.config)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			expect(t, l.Take(alice, c.topics), c.want)
		}
	}
}

func TestNewNamesTheFieldAtFault(t *testing.T) {
	good := ratelimit.Limit{Rate: 10, Burst: 10}
	config := func(change func(*ratelimit.Config)) ratelimit.Config {
		c := ratelimit.Config{Global: good, Sender: good, Topic: good}
		change(&c)
		return c
	}
	for field, c := range map[string]ratelimit.Config{
		"Config.Global.Rate: not a number":      config(func(c *ratelimit.Config) { c.Global.Rate = math.NaN() }),
		"Config.Sender.Rate: -1 is negative":    config(func(c *ratelimit.Config) { c.Sender.Rate = -1 }),
		"Config.Sender.Rate: -Inf is negative":  config(func(c *ratelimit.Config) { c.Sender.Rate = math.Inf(-1) }),
		"Config.Sender.Rate: at 1e-300 tokens":  config(func(c *ratelimit.Config) { c.Sender.Rate = 1e-300 }),
		"Config.Sender.Rate: at 5e-324 tokens":  config(func(c *ratelimit.Config) { c.Sender.Rate = math.SmallestNonzeroFloat64 }),
		"Config.Topic.Burst: -1 is negative":    config(func(c *ratelimit.Config) { c.Topic = ratelimit.Limit{Rate: math.Inf(1), Burst: -1} }),
		"Config.Topic.Burst: a bucket that":     config(func(c *ratelimit.Config) { c.Topic.Burst = 0 }),
		"Config.Topic.Burst: at 10 tokens":      config(func(c *ratelimit.Config) { c.Topic.Burst = math.MaxInt }),
		"Config.Global.Burst: at 1e-09 tokens":  config(func(c *ratelimit.Config) { c.Global = ratelimit.Limit{Rate: 1e-9, Burst: 2} }),
		"Config.MaxSenders: -1 is negative":     config(func(c *ratelimit.Config) { c.MaxSenders = -1 }),
		"Config.MaxTopics: -5 is negative":      config(func(c *ratelimit.Config) { c.MaxTopics = -5 }),
		"Config.Global.Burst: -2 is negative":   config(func(c *ratelimit.Config) { c.Global = ratelimit.Limit{Burst: -2} }),
		"Config.Sender.Rate: -1e-09 is negativ": config(func(c *ratelimit.Config) { c.Sender.Rate = -1e-9 }),
	} {
		if _, err := ratelimit.New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got error %v", field, err)
		}
	}
}

func TestFirstRefusingScopeAndLongestWait(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{
		Global: ratelimit.Limit{Rate: 10, Burst: 3},
		Sender: ratelimit.Limit{Rate: 0.1, Burst: 2},
		Topic:  ratelimit.Limit{Rate: 1, Burst: 1},
	})
	expect(t, l.Take(alice, orders), ratelimit.Result{OK: true})
	expect(t, l.Take(bob, orders), refused(ratelimit.ScopeTopic, time.Second))
	expect(t, l.Take(alice, refunds), ratelimit.Result{OK: true})
	expect(t, l.Take(alice, orders), refused(ratelimit.ScopeSender, 10*time.Second))
	expect(t, l.Take(bob, nil), ratelimit.Result{OK: true})
	expect(t, l.Take(carol, nil), refused(ratelimit.ScopeGlobal, 100*time.Millisecond))
	expect(t, l.Take(alice, orders), refused(ratelimit.ScopeGlobal, 10*time.Second))
}

func TestRetryAfterIsExact(t *testing.T) {
	for _, rate := range []float64{1e-3, 1.0 / 3, 1, 7, 999.9, 150_000, 3e8, 1e9, 1e12} {
		clock := new(clock)
		l := newLimiter(t, clock, ratelimit.Config{Sender: ratelimit.Limit{Rate: rate, Burst: 3}})
		if got := admitted(l, 10, alice, nil); got != 3 {
			t.Fatalf("rate %v: %d admitted of a burst of 3", rate, got)
		}
		wait := l.Take(alice, nil).RetryAfter
		clock.step(wait - 1)
		expect(t, l.Take(alice, nil), refused(ratelimit.ScopeSender, 1))
		clock.step(1)
		expect(t, l.Take(alice, nil), ratelimit.Result{OK: true})
	}
}

func TestSystemClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := ratelimit.Limit{Rate: 2, Burst: 1}
		l, err := ratelimit.New(ratelimit.Config{Global: limit, Sender: limit, Topic: limit})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, l.Take(alice, orders), ratelimit.Result{OK: true})
		expect(t, l.Take(alice, orders), refused(ratelimit.ScopeGlobal, 500*time.Millisecond))
		time.Sleep(500 * time.Millisecond)
		expect(t, l.Take(alice, orders), ratelimit.Result{OK: true})
	})
}

func TestEachTopicIsCharged(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{Topic: ratelimit.Limit{Rate: 1, Burst: 2}})
	both := append(append([]message.Topic{}, orders...), refunds...)
	if got := admitted(l, 1, alice, orders) + admitted(l, 5, alice, both) + admitted(l, 5, bob, refunds); got != 3 {
		t.Errorf("%d admitted: orders has room for 1 + 1, refunds for 1 + 1", got)
	}
}

func TestMessageWithManyTopics(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{Topic: ratelimit.Limit{Rate: 1, Burst: 2}})
	var many []message.Topic
	for i := range 100 {
		many = append(many, message.MustTopic(fmt.Sprintf("topic.%d", i)))
	}
	if got := admitted(l, 5, alice, many); got != 2 {
		t.Errorf("%d admitted of a burst of 2", got)
	}
	if got := admitted(l, 5, alice, many[99:]); got != 0 {
		t.Errorf("the last topic was not charged: %d more are admitted", got)
	}
}

func TestRefusalTakesNothing(t *testing.T) {
	l := newLimiter(t, new(clock), ratelimit.Config{
		Global: ratelimit.Limit{Rate: 1, Burst: 10},
		Sender: ratelimit.Limit{Rate: 1, Burst: 5},
		Topic:  ratelimit.Limit{Rate: 1, Burst: 2},
	})
	if got := admitted(l, 100, alice, orders); got != 2 {
		t.Fatalf("%d admitted under a topic with a burst of 2", got)
	}
	if got := admitted(l, 100, alice, nil); got != 3 {
		t.Errorf("98 refusals by the topic left the sender %d tokens, not 3", got)
	}
	if got := admitted(l, 100, bob, nil); got != 5 {
		t.Errorf("refusals left the global bucket %d tokens, not 5", got)
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	limit := ratelimit.Limit{Rate: 1e9, Burst: 1e9}
	l := newLimiter(t, new(clock), ratelimit.Config{Global: limit, Sender: limit, Topic: limit})
	if n := testing.AllocsPerRun(1000, func() { l.Take(alice, orders) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestScopeText(t *testing.T) {
	for scope, want := range map[ratelimit.Scope]string{
		ratelimit.ScopeGlobal: "global", ratelimit.ScopeSender: "sender", ratelimit.ScopeTopic: "topic", 0: "", 255: "",
	} {
		if got := scope.String(); got != want {
			t.Errorf("scope %d is %q", uint8(scope), got)
		}
	}
}
