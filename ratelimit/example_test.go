package ratelimit_test

import (
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
)

func ExampleLimiter_Take() {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	limiter, err := ratelimit.New(ratelimit.Config{
		Global: ratelimit.Unlimited,
		Sender: ratelimit.Limit{Rate: 100, Burst: 20},
		Topic:  ratelimit.Limit{Rate: 0.5, Burst: 2}, // one message in two seconds
		Now:    func() time.Time { return noon },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	sender := identity.ID{1}
	alarms := []message.Topic{message.MustTopic("alarms")}
	for range 3 {
		r := limiter.Take(sender, alarms)
		fmt.Println(r.OK, r.Scope, r.RetryAfter)
	}
	// Output:
	// true  0s
	// true  0s
	// false topic 2s
}

func ExampleBucket() {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	bytes, err := ratelimit.NewBucket(ratelimit.Limit{Rate: 1 << 20, Burst: 64 << 10}, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(bytes.Take(64<<10, now))
	fmt.Println(bytes.Take(1000, now))
	fmt.Println(bytes.Take(1000, now.Add(time.Second)))
	// Output:
	// true 0s
	// false 954µs
	// true 0s
}
