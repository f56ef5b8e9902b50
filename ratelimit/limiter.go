package ratelimit

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// Scope is a kind of bucket. The zero Scope is none.
type Scope uint8

// The scopes, in the order in which [Result] names them.
const (
	ScopeGlobal Scope = iota + 1 // all messages
	ScopeSender                  // the messages of one sender
	ScopeTopic                   // the messages under one topic
)

// String returns the scope as a metric label: global, sender or topic; "" for none.
func (s Scope) String() string {
	switch s {
	case ScopeGlobal:
		return "global"
	case ScopeSender:
		return "sender"
	case ScopeTopic:
		return "topic"
	}
	return ""
}

// Defaults of [Config].
const (
	DefaultMaxSenders = 65536
	DefaultMaxTopics  = 16384
)

// Config configures a [Limiter]. The zero value of a limit denies everything in its scope.
type Config struct {
	// Global limits all messages together.
	Global Limit
	// Sender limits the messages of each sender.
	Sender Limit
	// Topic limits the messages under each topic. Topics of one namespace share a bucket, whatever
	// their versions and attributes are: those are for the sender to choose, and must not win a
	// bucket of their own. Messages without a topic are not subject to it.
	Topic Limit
	// MaxSenders is how many senders can have a bucket of their own at a time; 0 means
	// DefaultMaxSenders. Beyond it they share one.
	MaxSenders int
	// MaxTopics is the same for topics; 0 means DefaultMaxTopics.
	MaxTopics int
	// Now is the clock; nil means the monotonic clock of the system. It has to be safe for
	// concurrent use. It may go backwards, which adds no tokens.
	Now func() time.Time
}

// Limiter decides which messages are admitted; [New] makes one. It is safe for concurrent use, starts
// no goroutine and needs no closing.
type Limiter struct {
	clock   func() int64 // in ticks since New
	senders kind
	topics  kind
	seed    maphash.Seed
	shards  [shards]atomic.Pointer[shard] // nil until used
	sharing sync.Mutex                    // guards kind.shared; locked after shards
	_       [64]byte                      // the global bucket changes all the time, the rest hardly ever
	global  Bucket
}

// kind is what the sender buckets, or the topic buckets, have in common.
type kind struct {
	scope     Scope
	meter     meter
	limit     int64        // how many buckets there may be
	live      atomic.Int64 // how many there are, or are being made
	nextSweep atomic.Int64 // in ticks
	shared    int64        // state of the bucket of those who have none
}

// Result is the answer of [Limiter.Take].
type Result struct {
	// OK tells whether the message is admitted.
	OK bool
	// Scope is the first in the order global, sender, topic that refuses it.
	Scope Scope
	// RetryAfter is the longest wait among the buckets that refuse: the same message can be admitted
	// after it, and not before. It is Never if a limit denies everything.
	RetryAfter time.Duration
}

// New makes a limiter whose buckets are full. Its errors name the field at fault: a rate that is
// negative or not a number, a negative burst, a rate without a burst, a bucket that would take longer
// than 36 years to fill, or a negative maximum.
func New(c Config) (*Limiter, error) {
	l := &Limiter{clock: clock(c.Now), seed: maphash.MakeSeed()}
	l.senders.scope, l.topics.scope = ScopeSender, ScopeTopic
	var err error
	if l.global.meter, err = c.Global.meter("Config.Global"); err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	if l.senders.meter, err = c.Sender.meter("Config.Sender"); err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	if l.topics.meter, err = c.Topic.meter("Config.Topic"); err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	if c.MaxSenders < 0 {
		return nil, fmt.Errorf("ratelimit: Config.MaxSenders: %d is negative", c.MaxSenders)
	}
	if c.MaxTopics < 0 {
		return nil, fmt.Errorf("ratelimit: Config.MaxTopics: %d is negative", c.MaxTopics)
	}
	l.senders.limit = int64(cmp.Or(c.MaxSenders, DefaultMaxSenders))
	l.topics.limit = int64(cmp.Or(c.MaxTopics, DefaultMaxTopics))
	return l, nil
}

// clock returns the ticks of now since this moment.
func clock(now func() time.Time) func() int64 {
	if now == nil {
		base := time.Now()
		return func() int64 { return int64(time.Since(base)) }
	}
	base := now()
	return func() int64 { return ticks(base, now()) }
}

// Take takes a token for one message from the global bucket, from that of its sender, and from that of
// each of its topics, or none from any of them. A topic, or a namespace, that is given twice counts
// once. The sender has to be a verified one. It does not allocate, up to eight topics.
func (l *Limiter) Take(sender identity.ID, topics []message.Topic) Result {
	var space [9]claim
	claims := l.claim(space[:0], sender, topics)
	now := l.clock()
	for {
		result, crowded := l.attempt(claims, now)
		if crowded == nil {
			return result
		}
		l.sweep(crowded, now)
	}
}
