package nats

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// core is the mode in which the broker passes on what it gets, and keeps nothing.
type core struct {
	endpoint *Endpoint
	network  *Network
	subjects subjects
	link     *link
	lanes    *lanes
	stop     chan struct{}
	pumping  sync.WaitGroup

	// subscriptions by namespace or by group key; only changed while Endpoint.subscribing is held.
	subscriptions map[string]*client.Subscription
	mu            sync.RWMutex
	groups        map[string]group // by key, as long as frames for them may come in
	barriers      []barrier
	shares        shares
	asked         map[string]bool // bare marks in the queue, which some senders repeat until they are answered
}

// settle is how long a change of subscriptions waits for the broker's answer.
const settle = 2 * time.Second

func newCore(ctx context.Context, e *Endpoint) (*core, error) {
	n := e.network
	c := &core{
		endpoint:      e,
		network:       n,
		subjects:      n.subjects,
		stop:          make(chan struct{}),
		subscriptions: map[string]*client.Subscription{},
		groups:        map[string]group{},
		asked:         map[string]bool{},
		shares:        newShares(load{n.config.Pending, n.config.PendingBytes}),
	}
	c.lanes = newLanes(c)
	var err error
	if c.link, err = n.open(ctx, e, c.lanes.reset); err != nil {
		return nil, err
	}
	c.pumping.Go(c.pump)
	for _, subject := range []string{n.subjects.agent(e.id), n.subjects.all(), c.lanes.prefix + ">"} {
		if err := c.listen(subject, subject, ""); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *core) listen(key, subject, queue string) error {
	var s *client.Subscription
	var err error
	if queue == "" {
		s, err = c.link.conn.ChanSubscribe(subject, c.link.gate.inbound)
	} else {
		s, err = c.link.conn.ChanQueueSubscribe(subject, queue, c.link.gate.inbound)
	}
	if err == nil {
		c.subscriptions[key] = s
	}
	return err
}

// subscribe implements carrier. New subscriptions begin before old ones end.
func (c *core) subscribe(ctx context.Context) error {
	wanted, groups := map[string]bool{}, *c.endpoint.groups.Load()
	for _, p := range *c.endpoint.patterns.Load() {
		key := c.subjects.topic(p.Namespace())
		wanted[key] = true
		if c.subscriptions[key] == nil {
			if err := c.listen(key, key, ""); err != nil {
				return err
			}
		}
	}
	for _, g := range groups {
		key := g.key()
		wanted[key] = true
		if c.subscriptions[key] == nil {
			c.mu.Lock()
			c.groups[key] = g
			c.mu.Unlock()
			if err := c.listen(key, c.subjects.topic(g.pattern.Namespace()), key); err != nil {
				return err
			}
		}
	}
	ended := c.endOthers(wanted)
	if err := c.settled(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.groups, func(key string, _ group) bool { return ended[key] })
	return nil
}

// endOthers ends the subscriptions to topics that are not wanted.
func (c *core) endOthers(wanted map[string]bool) (ended map[string]bool) {
	ended = map[string]bool{}
	for key, s := range c.subscriptions {
		if _, isTopic := c.subjects.namespace(s.Subject); isTopic && !wanted[key] {
			s.Unsubscribe() // it fails on a closed connection only
			delete(c.subscriptions, key)
			ended[key] = true
		}
	}
	return ended
}

// settled waits until the server knows of all changes, and what it sent before is in the queue. While it is
// away, there is nothing to wait for: the subscriptions begin when it is back.
func (c *core) settled(ctx context.Context) error {
	if c.link.flush(ctx, settle) == nil {
		c.barrier(ctx) // it fails with ctx only, or with the endpoint
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// send implements carrier.
func (c *core) send(ctx context.Context, to transport.Route, frame []byte) (missed int, err error) {
	switch {
	case to.To == c.endpoint.id:
		return 1, c.keep(frame)
	case !to.To.IsZero():
		return 1, c.lanes.send(ctx, to.To, frame)
	case len(to.Topics) == 0:
		return 1, c.publish(ctx, &client.Msg{Subject: c.subjects.all(), Reply: c.lanes.nowhere, Data: frame})
	}
	header := label{topics: to.Topics, frame: newToken()}.header()
	subjects := namespaces(to.Topics)
	for i, ns := range subjects {
		if err := c.publish(ctx, &client.Msg{Subject: c.subjects.topic(ns), Reply: c.lanes.nowhere, Header: header, Data: frame}); err != nil {
			return len(subjects) - i, err
		}
	}
	return 0, nil
}

// keep puts a frame for the agent itself into its own queue.
func (c *core) keep(frame []byte) error {
	if !c.put(arrival{data: bytes.Clone(frame), sender: oneself}) {
		return transport.ErrQueueFull
	}
	c.network.counters.received(len(frame))
	return nil
}

func (c *core) publish(ctx context.Context, m *client.Msg) error {
	return c.link.publish(ctx, c.endpoint.closed, len(m.Data), func(conn *client.Conn) error { return conn.PublishMsg(m) })
}

// pump takes in what the client's library brings, in the order in which it came. It never waits for the
// agent, so that answers of the broker get through whatever the agent does.
func (c *core) pump() {
	inbound := c.link.gate.inbound
	for {
		select {
		case m := <-inbound:
			c.arrive(m)
		case <-c.stop:
			return
		}
		for range len(inbound) { // nobody else takes from it
			c.arrive(<-inbound)
		}
		c.link.gate.took()
	}
}

// barrier returns once the pump has seen all that came in before.
func (c *core) barrier(ctx context.Context) error {
	b := barrier{&client.Msg{}, make(chan struct{})}
	c.mu.Lock()
	c.barriers = append(c.barriers, b)
	c.mu.Unlock()
	defer c.lift(b.msg)
	select {
	case c.link.gate.inbound <- b.msg:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.stop:
		return transport.ErrClosed
	}
	select {
	case <-b.reached:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.stop:
		return transport.ErrClosed
	}
}

type barrier struct {
	msg     *client.Msg
	reached chan struct{}
}

// lift ends a barrier.
func (c *core) lift(m *client.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.barriers, func(b barrier) bool { return b.msg == m })
	if i >= 0 {
		close(c.barriers[i].reached)
		c.barriers = slices.Delete(c.barriers, i, i+1)
	}
}

// arrive takes in one message of the broker. Everything in it may be a stranger's making.
func (c *core) arrive(m *client.Msg) {
	switch {
	case m.Sub == nil:
		c.lift(m)
	case c.subjects.isNotice(m.Subject):
		c.lanes.notice(m)
	case len(m.Data) > c.network.config.MaxFrame:
		c.network.counters.refuse(refusedTooLarge, "a frame that came in is too large", "bytes", len(m.Data))
	case c.subjects.isAgent(m.Subject):
		r := c.subjects.parseReply(m.Reply)
		if r.bare {
			c.admitMark(arrival{sender: r.sender, mark: r.mark, bare: true}, m)
			return
		}
		c.admit(arrival{data: m.Data, sender: r.sender, mark: r.mark})
	case c.subjects.isBroadcast(m.Subject):
		c.admit(arrival{data: m.Data, sender: c.subjects.parseReply(m.Reply).sender})
	default:
		c.arriveByTopic(m)
	}
}

func (c *core) arriveByTopic(m *client.Msg) {
	namespace, _ := c.subjects.namespace(m.Subject)
	l, err := parseLabel(m.Header, namespace)
	if err != nil {
		c.network.counters.refuse(refusedMalformed, "a frame for a topic makes no sense", "error", err)
		return
	}
	if c.wants(m.Sub.Queue, l.topics, namespace) && c.endpoint.recent.first(l.frame, m.Data) {
		c.admit(arrival{data: m.Data, sender: c.subjects.parseReply(m.Reply).sender})
	}
}

// wants reports whether a copy of a frame that came by a subscription, of a group if queue is not empty, is
// one to take in.
func (c *core) wants(queue string, topics []message.Topic, namespace string) bool {
	if queue == "" {
		return c.endpoint.subscribed(topics, namespace)
	}
	c.mu.RLock()
	g, known := c.groups[queue]
	c.mu.RUnlock()
	return known && g.takes(topics, namespace)
}

// admit puts a frame into the queue. Where senders are not to wait, its mark is answered at once.
func (c *core) admit(a arrival) {
	if len(a.data) == 0 {
		c.network.counters.refuse(refusedMalformed, "an empty frame came in")
		return
	}
	if a.mark != "" && c.network.config.WhenFull == transport.DropNewest {
		c.answer(a.mark)
		a.mark = ""
	}
	c.network.counters.received(len(a.data))
	if !c.put(a) {
		c.endpoint.shed()
		c.answerMark(a)
	}
}

// put puts a frame into the queue, if there is room for it and its sender has not had its share.
func (c *core) put(a arrival) bool {
	if !c.shares.take(a) {
		return false
	}
	if !c.endpoint.put(a) {
		c.shares.giveBack(a)
		return false
	}
	return true
}

// admitMark puts a mark without a frame into the queue, unless all before it was taken. Its sender wants to
// know at once that the endpoint is there.
func (c *core) admitMark(a arrival, m *client.Msg) {
	if id, err := identity.ParseID(sender(m.Header)); err == nil {
		c.lanes.seen(id)
	}
	if c.network.config.WhenFull == transport.DropNewest || c.endpoint.queue.Len() == 0 {
		c.answer(a.mark)
		return
	}
	c.answer(a.mark + aliveSuffix)
	c.mu.Lock()
	known := c.asked[a.mark]
	c.asked[a.mark] = true
	c.mu.Unlock()
	if !known && !c.put(a) {
		c.forget(a)
	}
}

func (c *core) forget(a arrival) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, a.mark)
}

// receiving implements carrier.
func (c *core) receiving() {}

// took implements carrier.
func (c *core) took(a arrival) {
	c.shares.giveBack(a)
	if a.bare {
		c.forget(a)
	}
	c.answerMark(a)
}

func (c *core) answerMark(a arrival) {
	if a.mark != "" {
		c.answer(a.mark)
	}
}

// answer tells a sender that its frames up to a mark were taken in. If it gets lost, the sender asks again.
func (c *core) answer(mark string) {
	if c.link.usable() {
		c.link.conn.Publish(mark, nil)
	}
}

// close implements carrier.
func (c *core) close() {
	c.link.close()
	close(c.stop)
	c.pumping.Wait()
}
