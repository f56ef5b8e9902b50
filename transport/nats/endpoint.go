package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/queue"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// Endpoint is one agent's [transport.Transport] on a [Network].
type Endpoint struct {
	network *Network
	id      identity.ID
	queue   *queue.Queue[arrival]
	bytes   atomic.Int64 // in the queue
	dropped stat.Counter
	recent  recent

	state   atomic.Int32
	closing sync.Once
	closed  chan struct{}
	carrier carrier // from when state is stateStarted

	subscribing chan struct{} // holds a token while patterns or groups are being changed
	patterns    atomic.Pointer[[]message.Pattern]
	groups      atomic.Pointer[[]group]
}

const (
	stateNew = iota
	stateStarting
	stateStarted
	stateClosed
)

var (
	_ transport.Transport = (*Endpoint)(nil)
	_ transport.Dropper   = (*Endpoint)(nil)
)

// carrier is what the core mode and the durable mode do differently.
type carrier interface {
	// send takes a frame to others. If there is an error, missed is how many did not get it.
	send(ctx context.Context, to transport.Route, frame []byte) (missed int, err error)
	// subscribe has the broker send what the endpoint's patterns and groups want, which were just changed.
	subscribe(ctx context.Context) error
	// receiving is told of each Receive.
	receiving()
	// took is told what left the queue for good.
	took(arrival)
	close()
}

// arrival is what waits to be received.
type arrival struct {
	data []byte

	// core mode
	sender string // whom it claims to come from; "" = no endpoint
	mark   string // where to publish that it was taken in; "" = nowhere
	bare   bool   // there is a mark, but no frame

	// durable mode
	done   func() // acknowledges the frame
	flight *flight
}

func newEndpoint(n *Network, id identity.ID) *Endpoint {
	e := &Endpoint{
		network:     n,
		id:          id,
		queue:       queue.New[arrival](n.config.queueCapacity(), queue.DropNewest),
		closed:      make(chan struct{}),
		subscribing: make(chan struct{}, 1),
	}
	e.patterns.Store(new([]message.Pattern))
	e.groups.Store(new([]group))
	return e
}

// queueCapacity is how many frames may wait in an endpoint. In the durable mode the broker counts.
func (c *Config) queueCapacity() int {
	if c.Durable.Enabled {
		return (1 + MaxGroups) * c.Durable.InFlight
	}
	return c.Pending
}

// Start implements [transport.Transport]. It starts the network's embedded server if that was not done
// yet, and connects. After an error it may be called again.
func (e *Endpoint) Start(ctx context.Context) error {
	if !e.state.CompareAndSwap(stateNew, stateStarting) {
		if e.state.Load() == stateClosed {
			return transport.ErrClosed
		}
		return fmt.Errorf("start NATS transport of %s: Start was called before", e.id)
	}
	err := e.start(ctx)
	if err != nil && !e.state.CompareAndSwap(stateStarting, stateNew) {
		return transport.ErrClosed
	}
	return err
}

func (e *Endpoint) start(ctx context.Context) error {
	ctx, cancel := e.untilClosed(ctx)
	defer cancel()
	if err := e.network.Start(ctx); err != nil {
		return err
	}
	if err := e.network.attach(e); err != nil {
		return err
	}
	err := e.connect(ctx)
	if err != nil {
		e.network.detach(e)
	}
	return err
}

// connect makes the carrier and has it subscribe.
func (e *Endpoint) connect(ctx context.Context) error {
	c, err := e.newCarrier(ctx)
	if err != nil {
		return err
	}
	e.subscribing <- struct{}{}
	defer func() { <-e.subscribing }()
	if err = c.subscribe(ctx); err == nil {
		e.carrier = c
		if e.state.CompareAndSwap(stateStarting, stateStarted) {
			return nil
		}
		err = transport.ErrClosed
	}
	c.close()
	return err
}

func (e *Endpoint) newCarrier(ctx context.Context) (carrier, error) {
	if e.network.config.Durable.Enabled {
		return newDurable(ctx, e)
	}
	return newCore(ctx, e)
}

// untilClosed returns a context that ends with the endpoint, too.
func (e *Endpoint) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-e.closed:
			cancel(transport.ErrClosed)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Send implements [transport.Transport]. See the package's description for what its error means in which
// mode. An empty frame is not sent.
func (e *Endpoint) Send(ctx context.Context, to transport.Route, frame []byte) error {
	missed, err := e.send(ctx, to, frame)
	if err != nil {
		return &transport.SendError{Route: to, Missed: max(missed, 1), Err: err}
	}
	e.network.counters.sent(len(frame))
	return nil
}

func (e *Endpoint) send(ctx context.Context, to transport.Route, frame []byte) (missed int, err error) {
	switch e.state.Load() {
	case stateNew, stateStarting:
		return 1, transport.ErrNotStarted
	case stateClosed:
		return 1, transport.ErrClosed
	}
	limit := e.network.config.MaxFrame
	switch {
	case ctx.Err() != nil:
		return 1, context.Cause(ctx)
	case len(frame) > limit:
		return 1, fmt.Errorf("%w: %d bytes, and the limit is %d", transport.ErrTooLarge, len(frame), limit)
	case len(frame) == 0:
		return 1, errors.New("the frame is empty")
	case len(to.Topics) > message.MaxTopics:
		return 1, fmt.Errorf("%d topics, and the limit is %d", len(to.Topics), message.MaxTopics)
	}
	return e.carrier.send(ctx, to, frame)
}

// Receive implements [transport.Transport]. In the durable mode, frames begin to come in with the first
// Receive: what waited for the agent while it was away comes to those who have subscribed before.
func (e *Endpoint) Receive(ctx context.Context) (transport.Frame, error) {
	if e.state.Load() < stateStarted {
		return transport.Frame{}, transport.ErrNotStarted
	}
	if e.state.Load() == stateStarted {
		e.carrier.receiving()
	}
	for {
		a, err := e.queue.Get(ctx)
		if err != nil {
			if errors.Is(err, queue.ErrClosed) {
				err = transport.ErrClosed
			}
			return transport.Frame{}, err
		}
		e.bytes.Add(-int64(len(a.data)))
		e.carrier.took(a)
		if !a.bare {
			return transport.Frame{Data: a.data, Done: a.done}, nil
		}
	}
}

// put takes in what arrived, if there is room.
func (e *Endpoint) put(a arrival) bool {
	size := int64(len(a.data))
	if e.bytes.Add(size) <= int64(e.network.config.PendingBytes) && e.queue.TryPut(a) {
		return true
	}
	e.bytes.Add(-size)
	return false
}

// shed counts a frame for which there is no room.
func (e *Endpoint) shed() {
	e.dropped.Inc()
	e.network.counters.refuse(refusedSlowConsumer, "an agent does not receive fast enough, frames are dropped", "agent", e.id.Short())
}

// Dropped implements [transport.Dropper].
func (e *Endpoint) Dropped() uint64 { return e.dropped.Load() }

// Close implements [transport.Transport]. What Send took is sent, for Config.Grace at most. Frames that
// were not received are gone in the core mode; in the durable mode they come again.
func (e *Endpoint) Close() error {
	e.closing.Do(func() {
		was := e.state.Swap(stateClosed)
		close(e.closed)
		if was == stateStarted {
			e.carrier.close()
			e.network.detach(e)
		}
		e.queue.Close()
		for _, left := e.queue.TryGet(); left; {
			_, left = e.queue.TryGet()
		}
	})
	return nil
}

// subscribed reports whether one of the topics with that namespace is wanted.
func (e *Endpoint) subscribed(topics []message.Topic, namespace string) bool {
	for _, p := range *e.patterns.Load() {
		wanted := func(t message.Topic) bool { return t.Namespace() == namespace && p.Matches(t) }
		if slices.ContainsFunc(topics, wanted) {
			return true
		}
	}
	return false
}
