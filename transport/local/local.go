// Package local connects agents of one process. Frames go through bounded queues, one for each agent,
// and every recipient gets a copy of its own, as it would over a wire.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/queue"
	"github.com/converge-agents/converge/internal/topics"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// DefaultCapacity is how many frames wait for an agent at most unless told otherwise.
const DefaultCapacity = 1024

// ErrAttached says that an agent of that ID is on the network already.
var ErrAttached = errors.New("agent is attached already")

// Config configures a [Network]. The zero value is usable.
type Config struct {
	// Capacity is the number of frames that may wait for one agent; 0 means DefaultCapacity.
	Capacity int
	// WhenFull says what a sender meets at a full queue: with transport.Block, the default, it waits
	// for as long as its context allows; with transport.DropNewest it gets transport.ErrQueueFull.
	WhenFull transport.WhenFull
}

// Network is where agents of one process meet. It is safe for concurrent use.
type Network struct {
	capacity int
	whenFull transport.WhenFull

	mu        sync.RWMutex
	endpoints map[identity.ID]*Endpoint // the started ones
	topics    topics.Index[*Endpoint]
}

// New returns a network without agents.
func New(c Config) (*Network, error) {
	if c.Capacity < 0 || c.Capacity > math.MaxInt32 {
		return nil, fmt.Errorf("local.Config.Capacity: %d is not between 0 and %d", c.Capacity, math.MaxInt32)
	}
	if c.Capacity == 0 {
		c.Capacity = DefaultCapacity
	}
	return &Network{capacity: c.Capacity, whenFull: c.WhenFull, endpoints: map[identity.ID]*Endpoint{}}, nil
}

// Endpoint returns the transport of the agent id. It joins the network at Start, which fails with
// [ErrAttached] while another endpoint of that agent is on it.
func (n *Network) Endpoint(id identity.ID) *Endpoint {
	return &Endpoint{network: n, id: id, queue: queue.New[[]byte](n.capacity, n.whenFull), closed: make(chan struct{})}
}

// Endpoint is one agent's [transport.Transport] on a [Network].
type Endpoint struct {
	network *Network
	id      identity.ID
	queue   *queue.Queue[[]byte]
	state   atomic.Int32
	closed  chan struct{}
}

const (
	stateNew = iota
	stateStarted
	stateClosed
)

var _ transport.Dropper = (*Endpoint)(nil)

// Start implements [transport.Transport].
func (e *Endpoint) Start(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n := e.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.endpoints[e.id]; taken {
		return fmt.Errorf("start local transport of %s: %w", e.id, ErrAttached)
	}
	if !e.state.CompareAndSwap(stateNew, stateStarted) {
		return transport.ErrClosed
	}
	n.endpoints[e.id] = e
	return nil
}

// Send implements [transport.Transport]. Recipients with room get the frame first, so that a full one
// delays only the sender.
func (e *Endpoint) Send(ctx context.Context, to transport.Route, frame []byte) error {
	recipients, err := e.recipients(to)
	if err != nil {
		return &transport.SendError{Route: to, Missed: 1, Err: err}
	}
	var full []*Endpoint
	for _, r := range recipients {
		if !r.queue.TryPut(bytes.Clone(frame)) {
			full = append(full, r)
		}
	}
	if len(full) == 0 {
		return nil
	}
	return e.sendToFull(ctx, to, full, frame)
}

// sendToFull sends to recipients that had no room, as the policy of their queues says.
func (e *Endpoint) sendToFull(ctx context.Context, to transport.Route, full []*Endpoint, frame []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-e.closed:
			cancel(transport.ErrClosed)
		case <-ctx.Done():
		}
	}()
	var err error
	missed := 0
	for _, r := range full {
		putErr := r.queue.Put(ctx, bytes.Clone(frame))
		if errors.Is(putErr, queue.ErrClosed) && to.To.IsZero() {
			continue // it left meanwhile, and with it the duty to reach it
		}
		if putErr != nil {
			missed++
			err = sendCause(putErr)
		}
	}
	if missed > 0 {
		return &transport.SendError{Route: to, Missed: missed, Err: err}
	}
	return nil
}

func sendCause(err error) error {
	switch {
	case errors.Is(err, queue.ErrFull):
		return transport.ErrQueueFull
	case errors.Is(err, queue.ErrClosed):
		return transport.ErrUnreachable
	default:
		return err
	}
}

// recipients returns the endpoints that the route names, as they are now.
func (e *Endpoint) recipients(to transport.Route) ([]*Endpoint, error) {
	switch e.state.Load() {
	case stateNew:
		return nil, transport.ErrNotStarted
	case stateClosed:
		return nil, transport.ErrClosed
	}
	n := e.network
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !to.To.IsZero() {
		r, ok := n.endpoints[to.To]
		if !ok {
			return nil, transport.ErrUnreachable
		}
		return []*Endpoint{r}, nil
	}
	var found []*Endpoint
	if len(to.Topics) == 0 {
		for _, r := range n.endpoints {
			found = append(found, r)
		}
	} else {
		found = n.topics.Match(to.Topics)
	}
	return slices.DeleteFunc(found, func(r *Endpoint) bool { return r == e }), nil
}

// Receive implements [transport.Transport].
func (e *Endpoint) Receive(ctx context.Context) (transport.Frame, error) {
	if e.state.Load() == stateNew {
		return transport.Frame{}, transport.ErrNotStarted
	}
	data, err := e.queue.Get(ctx)
	if errors.Is(err, queue.ErrClosed) {
		err = transport.ErrClosed
	}
	return transport.Frame{Data: data}, err
}

// Subscribe implements [transport.Transport].
func (e *Endpoint) Subscribe(_ context.Context, p message.Pattern) error {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	if e.state.Load() == stateClosed {
		return transport.ErrClosed
	}
	e.network.topics.Add(p, e)
	return nil
}

// Unsubscribe implements [transport.Transport].
func (e *Endpoint) Unsubscribe(_ context.Context, p message.Pattern) error {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	e.network.topics.Remove(p, e)
	return nil
}

// Dropped implements [transport.Dropper].
func (e *Endpoint) Dropped() uint64 { return e.queue.Dropped() }

// Close implements [transport.Transport]. Frames that were not received are gone.
func (e *Endpoint) Close() error {
	n := e.network
	n.mu.Lock()
	defer n.mu.Unlock()
	switch e.state.Swap(stateClosed) {
	case stateClosed:
		return nil
	case stateStarted:
		delete(n.endpoints, e.id)
	}
	close(e.closed)
	n.topics.RemoveAll(e)
	e.queue.Close()
	for _, left := e.queue.TryGet(); left; {
		_, left = e.queue.TryGet()
	}
	return nil
}
