// Package gossip lets agents of processes that share no store find each other: each process has a
// [discovery.Service] on a store of its own, and a [Gossip] keeps what these stores hold the same, by messages
// between the agents.
//
// What is passed on is self-certifying: descriptors and key statements are signed by the agents that they are
// about, so whoever passes them on can withhold them and nothing else. Only verified peers are heard. Whether
// a descriptor that a peer has passed on lets an agent in that was unknown is the decision of Config.Admit.
//
// A Gossip tells everybody what changes in its store at once, and passes on what it has heard after a random
// pause, unless it hears another one pass it on. A newcomer asks; everybody then passes on what they know, in
// random order, each item until somebody else has said it. Nothing that comes is worth more than its place in
// bounded queues and the work of its sender's allowance.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// Defaults and limits of a [Gossip].
const (
	DefaultRelay      = 500 * time.Millisecond
	DefaultIntroduced = 1024

	maxHeard    = 256              // messages that wait to be read; at the bound others are dropped
	maxWaiting  = 32               // of one sender
	maxSenders  = 4096             // senders whose allowance is kept; at the bound others are not heard
	allowance   = 512              // items that a sender can have verified at once
	refill      = 128              // of them a second
	pace        = time.Millisecond // between two messages
	sendTimeout = 5 * time.Second
	answerEvery = 5 * time.Second // requests are answered together
	firstAsk    = time.Second     // until a request is repeated that nobody has answered; doubles
	sweepEvery  = 10 * time.Minute
)

// Config configures a [Gossip]. Service and Send are required.
type Config struct {
	// Service is on a store that the agents of this process share, and no other process.
	Service *discovery.Service
	// Send sends a message as one of the agents of this process: transport.Hooked.Send, say.
	Send func(context.Context, message.Draft) error

	// Known says who may be heard of without being admitted: those that the registry knows, say. Nil means
	// those only that the service knows.
	Known func(identity.ID) bool
	// Admit decides whether a descriptor, which is verified, lets in an agent that is not known, and that the
	// peer from has passed on. Nil admits none: only what is known is kept current.
	Admit func(d discovery.Descriptor, from identity.ID) bool
	// Introduced bounds the agents that are in because one peer has passed them on; 0 means
	// DefaultIntroduced. At the bound others of that peer are refused, until some have run out.
	Introduced int
	// Reach, if set, is told of each descriptor that was taken in and is not a withdrawal,
	// also of one that says the same as before. The addresses are what the agent has signed.
	Reach func(discovery.Descriptor)

	Relay  time.Duration // the longest pause before something is passed on; 0 means DefaultRelay
	Logger *slog.Logger  // nil means slog.Default
}

// Gossip is a hook of every agent of a process (transport.Hook) and [Gossip.Run]. It is safe for concurrent
// use.
type Gossip struct {
	Config
	heard   chan heard
	changes chan struct{} // wakes Run
	stats   counters

	mu       sync.Mutex
	pending  map[name]*news
	own      []name          // pending, in this order, at once
	relayed  []name          // pending, in this order, after a pause
	arriving map[name][]byte // is being taken in, and is no news of this process
	noted    map[name]uint64 // hashes of what stood in the store last
	seed     maphash.Seed
	waiting  map[identity.ID]int // messages of a sender in heard

	// The rest belongs to the goroutine of Run.
	senders    map[identity.ID]*sender
	introduced map[identity.ID]identity.ID // who has passed on whom
	asked      bool                        // somebody wants to know everything
	answered   time.Time
	ask        time.Time // when to ask next
	patience   time.Duration
	swept      time.Time
}

// name tells items apart: there is one descriptor and one statement an agent.
type name struct {
	id        identity.ID
	statement bool
}

// news is an item that is to be said.
type news struct {
	raw   []byte
	relay bool // this process has heard it from another
	tries int  // that were in vain
	due   time.Time
}

// heard is a message that waits to be read.
type heard struct {
	from identity.ID
	body []byte
}

// counters count what became of messages and items.
type counters struct {
	sent, dropped, malformed, taken, old, refused atomic.Uint64
}

// Stats are counts of a [Gossip]: of messages, and of the items in them.
type Stats struct {
	Sent      uint64 // messages
	Dropped   uint64 // messages that came faster than they were read, or from more senders than are heard
	Malformed uint64 // messages
	Taken     uint64 // items that were news
	Old       uint64 // items that were not
	Refused   uint64 // items that do not verify, are not admitted, or are beyond their sender's allowance
}

// New checks the configuration and returns a Gossip, which does nothing until it runs.
func New(c Config) (*Gossip, error) {
	switch {
	case c.Service == nil:
		return nil, errors.New("gossip.Config.Service: required")
	case c.Send == nil:
		return nil, errors.New("gossip.Config.Send: required")
	case c.Relay < 0:
		return nil, errors.New("gossip.Config.Relay: must not be negative")
	case c.Introduced < 0:
		return nil, errors.New("gossip.Config.Introduced: must not be negative")
	}
	c.Relay = cmp.Or(c.Relay, DefaultRelay)
	c.Introduced = cmp.Or(c.Introduced, DefaultIntroduced)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return &Gossip{
		Config: c, heard: make(chan heard, maxHeard), changes: make(chan struct{}, 1),
		pending: map[name]*news{}, arriving: map[name][]byte{}, waiting: map[identity.ID]int{},
		noted: map[name]uint64{}, seed: maphash.MakeSeed(),
		senders: map[identity.ID]*sender{}, introduced: map[identity.ID]identity.ID{}, patience: firstAsk,
	}, nil
}

// Stats returns the counts so far.
func (g *Gossip) Stats() Stats {
	return Stats{
		Sent: g.stats.sent.Load(), Dropped: g.stats.dropped.Load(), Malformed: g.stats.malformed.Load(),
		Taken: g.stats.taken.Load(), Old: g.stats.old.Load(), Refused: g.stats.refused.Load(),
	}
}

// IgnoresDrafts says that PreSend changes nothing.
func (g *Gossip) IgnoresDrafts() bool { return true }

// PreSend lets drafts pass.
func (g *Gossip) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) { return &d, nil }

// PostReceive keeps the messages of other gossips, for Run to read, and lets others pass.
func (g *Gossip) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	if m.ContentType() != ContentType {
		return m, nil
	}
	if !m.Verified() {
		g.stats.dropped.Add(1)
		return nil, nil
	}
	if !g.keep(heard{m.Sender(), m.Body()}) {
		g.stats.dropped.Add(1)
	}
	return nil, nil
}

// keep reports whether there is room for a message.
func (g *Gossip) keep(m heard) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[m.from] >= maxWaiting {
		return false
	}
	select {
	case g.heard <- m:
		g.waiting[m.from]++
		return true
	default:
		return false
	}
}

// read makes room for another message of the sender.
func (g *Gossip) read(m heard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[m.from]--; g.waiting[m.from] == 0 {
		delete(g.waiting, m.from)
	}
}
