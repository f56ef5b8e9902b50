package transporttest

import (
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// Fabric makes transports that reach each other.
//
// What a fabric can do besides is asked by type assertion: [Cutter], [Staller], [Strander], [Flapper],
// [Slower], [Replayer], [Reorderer], [Limits], [Policy] and [Crowder]. A fault that a transport cannot
// meet is not implemented, and its tests are not listed. [Wires], embedded, gives a fabric over TCP the
// first six.
type Fabric interface {
	// Transport returns a transport for the identity, not started. Those that were made before it reach
	// it once it is started, and it them. It may be called again for an identity whose transport was
	// closed: the agent comes back.
	//
	// Timeouts are to be small: what a test waits for has to happen within half a minute, and idle and
	// handshake timeouts of half a second keep the suite short. Only the time for which a receiver may
	// stop receiving before it is given up has to be 10 seconds or more.
	Transport(t *testing.T, id *identity.Identity) transport.Transport
}

// Cutter is a [Fabric] that can break the path between two agents.
type Cutter interface {
	// Cut resets the connections between a and b, and refuses new ones, until Heal. Where agents meet at
	// a broker, b is cut off from it. Everybody else still reaches a.
	Cut(a, b identity.ID)
	// Heal ends every fault between the two.
	Heal(a, b identity.ID)
}

// Staller is a [Fabric] whose paths can go silent.
type Staller interface {
	// Stall swallows the bytes from one agent to the other, until Heal. Connections stay open and new
	// ones are accepted; neither end hears of the other's leaving. At a broker, whatever is on its way
	// to the agent is swallowed.
	Stall(from, to identity.ID)
	// Heal ends every fault between the two. Connections that lost bytes may be reset.
	Heal(a, b identity.ID)
}

// Strander is a [Fabric] whose connections can be forgotten by what lies between.
type Strander interface {
	// Strand makes the connections that are open now between a and b silent in both directions, for
	// ever, as when a middlebox loses its state. New connections pass.
	Strand(a, b identity.ID)
}

// Flapper is a [Fabric] whose connections can break again and again.
type Flapper interface {
	// Flap resets each connection between a and b once it has carried n bytes, until Heal.
	Flap(a, b identity.ID, n int)
	// Heal ends every fault between the two.
	Heal(a, b identity.ID)
}

// Slower is a [Fabric] whose paths can be slow.
type Slower interface {
	// Slow lets so many bytes a second pass in each direction, until Heal.
	Slow(a, b identity.ID, bytesPerSecond int)
	// Heal ends every fault between the two.
	Heal(a, b identity.ID)
}

// Replayer is a [Fabric] whose carrier can repeat itself.
type Replayer interface {
	// Replay sends what went from one agent to the other lately once more.
	Replay(from, to identity.ID)
}

// Reorderer is a [Fabric] whose carrier can change the order of frames.
type Reorderer interface {
	// Reorder delivers frames in another order than they were sent in, until Heal. No frame is held
	// back by more than a hundred others.
	Reorder(from, to identity.ID)
	// Heal ends every fault between the two.
	Heal(a, b identity.ID)
}

// Limits is a [Fabric] whose transports bound the size of a frame.
type Limits interface {
	// MaxFrame returns the size of the largest frame that passes, in bytes.
	MaxFrame() int
}

// Policy is a [Fabric] that says what senders meet; without it they meet [Blocks].
type Policy interface {
	// WhenReceiverStops says what senders meet when a receiver stops receiving.
	WhenReceiverStops() Overflow
}

// Overflow is what becomes of frames for a receiver that does not receive.
type Overflow uint8

// The sorts of overflow. Whichever it is, memory stays bounded and other receivers are not delayed.
const (
	// Blocks: Send waits for room until its context ends. What it accepted is not lost.
	Blocks Overflow = iota
	// Refuses: Send returns transport.ErrQueueFull. What it accepted is not lost.
	Refuses
	// Sheds: Send goes on, and the receiver drops what it has no room for. Its transport is a
	// transport.Dropper, and counts what it has dropped.
	Sheds
)

// Crowder is a [Fabric] that can make many transports around one.
type Crowder interface {
	// Crowd returns transports that are not started. The hub's reaches all others, and theirs reach the
	// hub's; they need not reach each other. They come from one address, several at once.
	Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport)
}
