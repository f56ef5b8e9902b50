// Package transport moves signed messages between agents.
//
// A [Transport] carries opaque frames: it neither parses, signs nor trusts them, so that a hostile or
// broken one can lose and delay, but not forge. Signing and verifying happen in package message.
// [ReceiveVerified] is the way in: it lets through what a [message.Verifier] accepts, and nothing
// else. [Hooked] puts both directions together and adds hooks, as middleware that sees drafts before
// they are signed and messages after they are verified.
package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/queue"
	"github.com/converge-agents/converge/message"
)

// Errors of transports, to be compared with [errors.Is].
var (
	ErrClosed      = errors.New("transport is closed")
	ErrNotStarted  = errors.New("transport is not started")
	ErrUnreachable = errors.New("no such agent is attached")
	ErrQueueFull   = errors.New("the recipient's queue is full")
	ErrTooLarge    = errors.New("the frame is larger than the transport carries")
)

// WhenFull is the policy of a bounded queue: what happens to what arrives when there is no room.
type WhenFull = queue.Policy

// The policies.
const (
	// Block makes whoever brings something wait for room, up to the end of its context: backpressure.
	Block = queue.Block
	// DropNewest refuses what arrives, counts it, and returns ErrQueueFull to whoever brings it.
	DropNewest = queue.DropNewest
)

// Route says where a frame goes: To one agent, or to the subscribers of any of Topics, or, when both
// are empty, to every other agent. A sender does not hear its own topics and broadcasts; what it sends To
// itself it receives.
type Route struct {
	To     identity.ID
	Topics []message.Topic
}

// RouteOf returns the route of a message.
func RouteOf(m *message.Message) Route { return Route{To: m.To(), Topics: m.Topics()} }

// String names the route in errors and logs.
func (r Route) String() string {
	switch {
	case !r.To.IsZero():
		return "agent " + r.To.String()
	case len(r.Topics) > 0:
		return fmt.Sprintf("topics %s", r.Topics)
	default:
		return "all agents"
	}
}

// SendError says what was not sent. It unwraps to Err.
type SendError struct {
	Route  Route
	Missed int // how many recipients did not get the frame; others may have
	Err    error
}

// Error implements error.
func (e *SendError) Error() string {
	return fmt.Sprintf("send to %s: %d recipient(s) missed: %v", e.Route, e.Missed, e.Err)
}

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.Err }

// Frame is what arrives. The receiver owns Data.
type Frame struct {
	Data []byte
	// Done, if not nil, acknowledges the frame to a transport that keeps it until then and delivers it
	// again otherwise. Whoever receives the frame calls it once it was taken in or refused for good.
	Done func()
}

func (f Frame) done() {
	if f.Done != nil {
		f.Done()
	}
}

// Transport is one agent's connection to others. Implementations pass the suite of package
// transporttest. All methods are safe for concurrent use.
type Transport interface {
	// Start connects. It returns when Send and Receive work, and is called once. Cancelling ctx
	// abandons the start, not the started transport.
	Start(ctx context.Context) error
	// Send takes frame to the recipients of the route. It does not keep frame. A nil error means that
	// the frame is on its way, not that it arrived; otherwise the error is a *SendError, which says
	// what was not sent: ErrUnreachable, ErrQueueFull, ErrTooLarge, ErrClosed, ErrNotStarted or ctx's
	// cause.
	Send(ctx context.Context, to Route, frame []byte) error
	// Receive returns the next frame, in the order in which one sender sent them. It waits for one
	// until ctx ends (and returns its cause) or the transport is closed (ErrClosed).
	Receive(ctx context.Context) (Frame, error)
	// Subscribe asks for the topics that p matches. A frame arrives once, however many patterns
	// match. Subscribing twice is fine.
	Subscribe(ctx context.Context, p message.Pattern) error
	// Unsubscribe ends a subscription. Ending none is fine.
	Unsubscribe(ctx context.Context, p message.Pattern) error
	// Close first sends out, within bounds of the implementation, what Send has taken for recipients that
	// are there and receive; then it disconnects and unblocks Send and Receive. Closing twice is fine.
	Close() error
}

// Dropper is a [Transport] whose queue may drop frames. Dropped says how many it has dropped.
type Dropper interface {
	Dropped() uint64
}

// Rotator is a [Transport] that proves the agent's identity to its peers itself.
type Rotator interface {
	// Rotate has the transport go on with another key of the same agent. Connections stay. Peers learn of the
	// key's statement before any frame that is sent after Rotate has returned.
	Rotate(id *identity.Identity) error
}

// ReceiveVerified returns the next message that v accepts. Frames that it refuses are reported to drop,
// if that is not nil, and skipped: they neither end nor delay the listener. The error is Receive's. Every
// frame is acknowledged at once; [Hooked.Deliver] can wait with it.
func ReceiveVerified(ctx context.Context, t Transport, v *message.Verifier, drop func(context.Context, *message.Refusal)) (*message.Message, error) {
	m, frame, err := receive(ctx, t, v.Verify, drop)
	if err == nil {
		frame.done()
	}
	return m, err
}

// receive returns the next message that open accepts, and its frame, which is not acknowledged yet.
func receive(ctx context.Context, t Transport, open func([]byte) (*message.Message, error), drop func(context.Context, *message.Refusal)) (*message.Message, Frame, error) {
	for {
		frame, err := t.Receive(ctx)
		if err != nil {
			return nil, Frame{}, err
		}
		m, err := open(frame.Data)
		if err == nil {
			return m, frame, nil
		}
		if refusal, ok := errors.AsType[*message.Refusal](err); ok && drop != nil {
			drop(ctx, refusal)
		}
		if !errors.Is(err, message.ErrNoMarks) { // a message that is only refused for now may come again
			frame.done()
		}
	}
}
