package converge

import (
	"context"
	"errors"
	"math"

	"github.com/converge-agents/converge/internal/queue"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// DefaultInboxCapacity is how many messages wait for an agent's next turn at most.
const DefaultInboxCapacity = 1024

// InboxConfig configures an [Inbox]. The zero value is usable.
type InboxConfig struct {
	Capacity int // messages; 0 means DefaultInboxCapacity
	// WhenFull says what happens to a message that finds no room: with transport.Block, the default,
	// the runtime stops receiving until there is room, and the transport's queue fills; with
	// transport.DropNewest the message is dropped and counted.
	WhenFull transport.WhenFull
}

// Inbox holds the verified messages that wait for an agent's next turn. It is bounded and safe for
// concurrent use.
type Inbox struct {
	queue *queue.Queue[*message.Message]
}

// NewInbox returns an empty inbox. A capacity outside of 1 to 2³¹−1 counts as the nearest one in it.
func NewInbox(c InboxConfig) *Inbox {
	if c.Capacity == 0 {
		c.Capacity = DefaultInboxCapacity
	}
	return &Inbox{queue: queue.New[*message.Message](min(max(c.Capacity, 1), math.MaxInt32), c.WhenFull)}
}

// Put adds a message, by the inbox's policy. It returns transport.ErrQueueFull for a message that was
// dropped, and ctx's cause if ctx ended before there was room.
func (i *Inbox) Put(ctx context.Context, m *message.Message) error {
	err := i.queue.Put(ctx, m)
	if errors.Is(err, queue.ErrFull) {
		return transport.ErrQueueFull
	}
	return err
}

// Take removes and returns up to n messages, the oldest first, without waiting.
func (i *Inbox) Take(n int) []*message.Message { return i.queue.TakeUpTo(n) }

// Len returns how many messages wait.
func (i *Inbox) Len() int { return i.queue.Len() }

// Dropped returns how many messages found no room.
func (i *Inbox) Dropped() uint64 { return i.queue.Dropped() }
