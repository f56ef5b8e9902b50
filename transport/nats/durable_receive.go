package nats

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullFrames and pullBytes bound what the client's library keeps of one consumer.
	pullFrames = 256
	pullBytes  = 8 << 20
	// groupShare is how many frames of a group one member may have that it has not dealt with: the others
	// are to get theirs.
	groupShare = 16
	// ownDelay is after what time a group is offered a frame again that came to its own sender, and
	// ownOffers how often that is done.
	ownDelay  = 50 * time.Millisecond
	ownOffers = 40
	// heldDeliveries is how often a frame may come in that the agent has and has not acknowledged, before
	// the agent gets it once more.
	heldDeliveries = 5
)

// consumption is the receiving of what one consumer has.
type consumption struct {
	durable *durable
	name    string
	group   *group // nil: the agent's own
	stop    chan struct{}
	stopped chan struct{}
	doubt   chan struct{} // holds a token when the consumer may have been removed
	slots   chan struct{} // of a group: holds a token for each of its frames that this member has
}

// newConsumption makes the receiving of what the agent's own consumer has, or a group's.
func (d *durable) newConsumption(name string, g *group) *consumption {
	c := &consumption{
		durable: d, name: name, group: g,
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
		doubt:   make(chan struct{}, 1),
	}
	if g != nil {
		c.slots = make(chan struct{}, groupShare)
	}
	return c
}

var errRemoved = errors.New("the consumer was removed")

// run receives until it is stopped. A consumer that somebody has removed is made again.
func (c *consumption) run() {
	defer close(c.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-c.stop:
			cancel()
		case <-c.stopped:
		}
	}()
	for ctx.Err() == nil {
		if err := c.receive(ctx); err != nil && ctx.Err() == nil {
			c.durable.network.config.Logger.Warn("nats: frames do not come in", "consumer", c.name, "error", err)
			pause(ctx, c.stop, 10*retryPause) // the loop looks at ctx
		}
	}
}

// receive makes the consumer if need be, and takes in what it has.
func (c *consumption) receive(ctx context.Context) error {
	consumer, err := c.consumer(ctx)
	if err != nil {
		return err
	}
	frames := pullFrames
	if c.group != nil {
		frames = groupShare
	}
	consuming, err := consumer.Consume(c.arrive,
		jetstream.PullMaxMessagesWithBytesLimit(frames, max(pullBytes, c.durable.network.config.MaxFrame+headerRoom)),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { c.troubled(err) }))
	if err != nil {
		return err
	}
	defer c.drain(consuming)
	for {
		select {
		case <-consuming.Closed():
			return errRemoved
		case <-ctx.Done():
			return nil
		case <-c.doubt:
			if _, err := c.durable.js.Consumer(ctx, c.durable.stream, c.name); errors.Is(err, jetstream.ErrConsumerNotFound) {
				return errRemoved
			}
		}
	}
}

// drain ends the receiving. What the client's library has already got is handed back, for Grace at most.
func (c *consumption) drain(consuming jetstream.ConsumeContext) {
	if c.durable.link.usable() {
		consuming.Drain()
	} else {
		consuming.Stop()
	}
	grace := time.NewTimer(c.durable.network.config.Grace)
	defer grace.Stop()
	select {
	case <-consuming.Closed():
	case <-grace.C:
	}
}

// stopping reports whether frames are to be handed back.
func (c *consumption) stopping() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// consumer makes the consumer, with the filters that hold from the first Receive on.
func (c *consumption) consumer(ctx context.Context) (jetstream.Consumer, error) {
	d := c.durable
	select {
	case d.endpoint.subscribing <- struct{}{}:
		defer func() { <-d.endpoint.subscribing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c.group != nil {
		return d.createGroup(ctx, *c.group)
	}
	d.inherited, d.applied = nil, nil
	return d.apply(ctx, d.filters())
}

// troubled takes what the client's library reports on the side.
func (c *consumption) troubled(err error) {
	c.durable.network.config.Logger.Debug("nats: consumer", "consumer", c.name, "error", err)
	if errors.Is(err, jetstream.ErrNoHeartbeat) || errors.Is(err, client.ErrNoResponders) {
		select {
		case c.doubt <- struct{}{}:
		default:
		}
	}
}

// arrive takes in one message. Its content may be a stranger's making.
func (c *consumption) arrive(m jetstream.Msg) {
	d := c.durable
	meta, err := m.Metadata()
	if err != nil || meta.Stream != d.stream || meta.Consumer != c.name {
		d.network.counters.refuse(refusedMalformed, "a frame came in that is not from the stream")
		return
	}
	key := flightKey{c.name, meta.Sequence.Stream}
	again := d.flights.has(key)
	switch {
	case c.stopping() && !again:
		m.Nak() // AckWait does the same later
	case again && (meta.NumDelivered%heldDeliveries != 0 || !d.flights.handed(key)):
		m.InProgress() // otherwise it comes once more
	case !c.acceptable(m, again):
		m.Ack() // otherwise it comes once more, and is refused again
	case c.group != nil && sender(m.Headers()) == d.endpoint.id.String():
		c.passOn(m, meta.NumDelivered)
	default:
		c.deliver(key, m)
	}
}

// passOn leaves a frame of a group that came back to its sender to other members. If there are none for some
// time, nobody gets it.
func (c *consumption) passOn(m jetstream.Msg, deliveries uint64) {
	if deliveries < ownOffers {
		m.NakWithDelay(ownDelay) // AckWait does the same
		return
	}
	c.durable.network.counters.lost.Inc()
	m.Ack()
}

// acceptable reports whether the agent wants a frame.
func (c *consumption) acceptable(m jetstream.Msg, again bool) bool {
	d, n := c.durable, c.durable.network
	namespace, isTopic := d.subjects.namespace(m.Subject())
	switch {
	case len(m.Data()) == 0: // somebody of the core mode asks whether anybody listens
		return false
	case len(m.Data()) > n.config.MaxFrame:
		n.counters.refuse(refusedTooLarge, "a frame that came in is too large", "bytes", len(m.Data()))
		return false
	case d.subjects.isBroadcast(m.Subject()):
		return sender(m.Headers()) != d.endpoint.id.String()
	case !isTopic:
		return true
	}
	l, err := parseLabel(m.Headers(), namespace)
	if err != nil {
		n.counters.refuse(refusedMalformed, "a frame for a topic makes no sense", "error", err)
		return false
	}
	if c.group != nil {
		return c.group.takes(l.topics, namespace) && (again || l.from == d.endpoint.id.String() || d.endpoint.recent.first(l.frame, m.Data()))
	}
	return l.from != d.endpoint.id.String() && d.endpoint.subscribed(l.topics, namespace) &&
		(again || d.endpoint.recent.first(l.frame, m.Data()))
}

// deliver puts a frame into the agent's queue, and waits for room if need be.
func (c *consumption) deliver(key flightKey, m jetstream.Msg) {
	d := c.durable
	f := d.flights.add(key, m, c.slots)
	a := arrival{data: m.Data(), flight: f, done: func() { d.done(key, f) }}
	for !c.hasSlot(f) || !d.endpoint.put(a) {
		select {
		case <-d.room:
		case <-c.stop:
			if d.flights.end(key, f) {
				m.Nak() // AckWait does the same later
			}
			return
		}
	}
	d.network.counters.received(len(a.data))
}

// hasSlot waits for a slot of the group.
func (c *consumption) hasSlot(f *flight) bool {
	if c.slots == nil || f.holds {
		return true
	}
	select {
	case c.slots <- struct{}{}:
		f.holds = true
	case <-c.stop:
	}
	return f.holds
}

// done acknowledges a frame that the agent has dealt with.
func (d *durable) done(key flightKey, f *flight) {
	if d.flights.end(key, f) {
		f.msg.Ack() // if it gets lost, the frame comes again and is a replay
	}
}

// took implements carrier.
func (d *durable) took(a arrival) {
	if a.flight != nil {
		a.flight.handed.Store(true)
	}
	select {
	case d.room <- struct{}{}:
	default:
	}
}

// flights are the frames that are with the agent and not acknowledged. The consumers' InFlight bounds them.
type flights struct {
	mu   sync.Mutex
	open map[flightKey]*flight
}

type flightKey struct {
	consumer string
	sequence uint64
}

type flight struct {
	msg    jetstream.Msg
	handed atomic.Bool   // the agent has it
	slots  chan struct{} // see consumption
	holds  bool          // it holds one; set before the agent can get it
}

func (f *flights) has(key flightKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[key] != nil
}

func (f *flights) handed(key flightKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[key] != nil && f.open[key].handed.Load()
}

func (f *flights) add(key flightKey, m jetstream.Msg, slots chan struct{}) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[flightKey]*flight{}
	}
	if old := f.open[key]; old != nil {
		old.letGo()
	}
	f.open[key] = &flight{msg: m, slots: slots}
	return f.open[key]
}

// end reports whether the flight was still open.
func (f *flights) end(key flightKey, is *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[key] != is {
		return false
	}
	delete(f.open, key)
	is.letGo()
	return true
}

// letGo gives the slot back.
func (f *flight) letGo() {
	if f.holds {
		f.holds = false
		<-f.slots
	}
}

// abandon forgets all flights, and returns them.
func (f *flights) abandon() []*flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	abandoned := slices.Collect(maps.Values(f.open))
	clear(f.open)
	return abandoned
}
