// Package loadtest measures the whole path of a message: an agent decides, its runtime signs, a
// transport carries, another runtime verifies, looks into the replay window, limits and queues, and
// another agent is shown it.
//
// Senders are on one side and the agent that receives on the other. The sides share a process, and
// nothing else: each has its own network of the transport and its own registry, which knows the other
// side's keys only. (The local transport connects agents of one network, so there they share that.)
//
// [Run] warms up, measures, and then compares what was sent with what arrived: a figure is only good if
// every message arrived once, verified, and nothing else did.
package loadtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/converge-agents/converge/message"
)

// Bounds of a [Config].
const (
	MaxMessages = 100_000_000
	MinSize     = headerSize
	MaxSize     = message.DefaultMaxSize - overhead
	MaxSenders  = 1000
	MaxRate     = 10_000_000
)

// overhead bounds what the envelope adds to a body.
const overhead = 16 << 10

// Defaults of a [Config].
const (
	DefaultMessages = 200_000
	DefaultSize     = 256
	DefaultSenders  = 4
	DefaultPatience = 10 * time.Second
)

// Signature is how messages are signed, by the name that the command line and reports use.
type Signature string

// The signatures.
const (
	Batch    Signature = "batch"    // one signature for the messages that wait together
	Single   Signature = "single"   // one signature a message
	Unsigned Signature = "unsigned" // none, and the receiver verifies nothing: UNSAFE, for comparison only
)

// Signatures lists all signatures.
func Signatures() []Signature { return []Signature{Batch, Single, Unsigned} }

// Config says what to measure. The zero value of a field is its default.
type Config struct {
	Transport string    // the name that results bear
	Connect   Connect   // required; see Transports
	Signature Signature // "" means Batch

	Messages int // how many are measured, at most MaxMessages; 0 means DefaultMessages
	Size     int // bytes of a body, from MinSize to MaxSize; 0 means DefaultSize
	Senders  int // agents that send, at most MaxSenders; 0 means DefaultSenders
	Rate     int // messages a second in all, at most MaxRate; 0 means as many as get through

	// Patience is how long nothing may arrive before messages count as lost; 0 means DefaultPatience.
	Patience time.Duration
	// Progress, if set, is told now and then how many messages of the warm-up and the measurement have
	// arrived. It is called from one goroutine, and should return at once.
	Progress func(arrived, total int)
	Logger   *slog.Logger // nil means slog.Default
}

// Result is what was measured.
type Result struct {
	Transport         string    `json:"transport"`
	Signature         Signature `json:"signature"`
	Messages          int       `json:"messages"`
	MessagesPerSecond float64   `json:"messages_per_second"`
	// P50 and P99 are microseconds from the moment at which a sender decided to say something to the one
	// at which the receiving agent was shown it: half, and 99 in 100, took no longer.
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	// CPUSeconds is what both sides used together, and AllocsPerMessage what they allocated: the
	// collector of garbage and the agents included.
	CPUSeconds       float64 `json:"cpu_seconds"`
	AllocsPerMessage float64 `json:"allocs_per_message"`
}

// Run measures. If messages are lost, doubled or refused, the error is a [*LossError]; if ctx ends, it
// wraps ctx's cause and says how far the measurement was. It leaves nothing running.
func Run(ctx context.Context, c Config) (Result, error) {
	c.setDefaults()
	if err := c.validate(); err != nil {
		return Result{}, err
	}
	t, err := newTrial(c)
	if err != nil {
		return Result{}, err
	}
	return t.run(ctx)
}

func (c *Config) setDefaults() {
	c.Signature = cmp.Or(c.Signature, Batch)
	c.Messages = cmp.Or(c.Messages, DefaultMessages)
	c.Size = cmp.Or(c.Size, DefaultSize)
	c.Senders = cmp.Or(c.Senders, DefaultSenders)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Progress == nil {
		c.Progress = func(int, int) {}
	}
}

func (c *Config) validate() error {
	if c.Connect == nil {
		return errors.New("loadtest.Config.Connect: required")
	}
	if _, known := modes[c.Signature]; !known {
		return fmt.Errorf("loadtest.Config.Signature: %q is none of %q", c.Signature, Signatures())
	}
	if c.Patience < 0 {
		return errors.New("loadtest.Config.Patience: negative")
	}
	for _, f := range []struct {
		name              string
		value, least, max int
	}{
		{"Messages", c.Messages, 1, MaxMessages},
		{"Size", c.Size, MinSize, MaxSize},
		{"Senders", c.Senders, 1, MaxSenders},
		{"Rate", c.Rate, 0, MaxRate},
	} {
		if f.value < f.least || f.value > f.max {
			return fmt.Errorf("loadtest.Config.%s: %d is not between %d and %d", f.name, f.value, f.least, f.max)
		}
	}
	return nil
}

// Bounds of what waits at each place, so that large messages and many senders take no more memory than
// small ones and few.
const (
	waiting      = 16 << 20 // bytes at the receiver, in one queue
	mostWaiting  = 1024     // messages there
	leastWaiting = 16
	mostATurn    = 256      // messages that an agent sends or is shown in one turn
	sending      = 64 << 20 // bytes at all senders together, in one queue each
	mostSending  = 4 << 20  // bytes at one sender, which is also what transports have by default
	leastSending = 64 << 10
)

// capacity is how many messages wait in one queue of the receiver.
func (c *Config) capacity() int { return min(max(waiting/c.Size, leastWaiting), mostWaiting) }

// queue is how many bytes wait in one queue of a sender: at least two messages.
func (c *Config) queue() int {
	return min(max(sending/c.Senders, leastSending, 2*(c.Size+overhead)), mostSending)
}

// turn is how many messages a sender's turn has at most.
func (c *Config) turn() int { return min(max(c.queue()/c.Size, 1), mostATurn) }

// warmUp is how many messages each sender sends before the measurement.
func (c *Config) warmUp() int { return max(min(c.Messages/10, mostWarmUp)/c.Senders, 2) }

const mostWarmUp = 20_000 // messages of all senders

// stages returns which numbers the i-th sender has used up at the end of each stage: the first message,
// the warm-up, the measurement.
func (c *Config) stages(i int) []int {
	measured := c.Messages / c.Senders
	if i < c.Messages%c.Senders {
		measured++
	}
	return []int{1, c.warmUp(), c.warmUp() + measured}
}
