package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// settleTime is how long Start waits for peers to be reached, and Subscribe for them to acknowledge.
const settleTime = 2 * time.Second

// Endpoint is one agent's [transport.Transport] on a [Network].
type Endpoint struct {
	n          *Network
	id         identity.ID
	credential *peertls.Credential
	inbox      *inbox
	subs       subscriptions
	changing   sync.Mutex // of subscriptions
	state      atomic.Int32
	running    sync.WaitGroup
	closed     chan struct{} // closed when Close is done

	open     context.Context // ends when Close begins
	shut     context.CancelFunc
	dialling context.Context // ends when nothing is dialled any more
	stop     context.CancelFunc

	mu    sync.RWMutex
	peers map[identity.ID]*peer
}

const (
	stateNew = iota
	stateStarted
	stateClosed
)

var (
	_ transport.Transport = (*Endpoint)(nil)
	_ transport.Dropper   = (*Endpoint)(nil)
)

func newEndpoint(n *Network, id *identity.Identity) *Endpoint {
	e := &Endpoint{
		n: n, id: id.ID(), credential: peertls.NewCredential(id, n.c.Now), inbox: newInbox(n.c.Receive, n.c.ReceiveBytes),
		closed: make(chan struct{}), peers: map[identity.ID]*peer{},
	}
	e.open, e.shut = context.WithCancel(context.Background())
	e.dialling, e.stop = context.WithCancel(context.Background())
	return e
}

// Start implements [transport.Transport]. The first endpoint of a network opens its listener. Start
// dials all peers that have an address, and returns when each has been reached, or the first attempt
// has failed, or after 2 s: what is not reached by then is dialled on.
func (e *Endpoint) Start(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	peers, err := e.n.join(ctx, e)
	if err != nil {
		return fmt.Errorf("start %s transport of %s: %w", e.n.kind.Name(), e.id, err)
	}
	for _, p := range peers {
		e.addPeer(p)
	}
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for _, p := range e.allPeers() {
		p.awaitFirst(settled)
	}
	if err := context.Cause(ctx); err != nil {
		e.Close()
		return err
	}
	return nil
}

// addPeer adds or changes a peer.
func (e *Endpoint) addPeer(info Peer) {
	if info.ID == e.id {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Load() != stateStarted {
		return
	}
	p := e.peers[info.ID]
	if p == nil {
		p = newPeer(e, info)
		e.peers[info.ID] = p
	}
	p.update(info)
}

func (e *Endpoint) removePeer(id identity.ID) {
	e.mu.Lock()
	p := e.peers[id]
	delete(e.peers, id)
	e.mu.Unlock()
	if p != nil {
		p.remove()
	}
}

func (e *Endpoint) peer(id identity.ID) *peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.peers[id]
}

func (e *Endpoint) allPeers() []*peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*peer, 0, len(e.peers))
	for _, p := range e.peers {
		all = append(all, p)
	}
	return all
}

// Send implements [transport.Transport]. The frame waits for a peer that is connecting until its grace
// is over. Recipients with room get it first, so that a full one delays only the sender.
func (e *Endpoint) Send(ctx context.Context, to transport.Route, frame []byte) error {
	missed, err := e.send(ctx, to, frame)
	if err != nil {
		return &transport.SendError{Route: to, Missed: missed, Err: err}
	}
	return nil
}

func (e *Endpoint) send(ctx context.Context, to transport.Route, frame []byte) (missed int, err error) {
	switch state := e.state.Load(); {
	case state == stateNew:
		return 1, transport.ErrNotStarted
	case state == stateClosed:
		return 1, transport.ErrClosed
	case ctx.Err() != nil:
		return 1, context.Cause(ctx)
	case len(frame) > e.n.c.MaxFrame:
		return 1, fmt.Errorf("%w: %d bytes, at most %d", transport.ErrTooLarge, len(frame), e.n.c.MaxFrame)
	case !to.To.IsZero():
		return 1, e.sendTo(ctx, to.To, frame)
	}
	return e.sendToMany(ctx, to, frame)
}

func (e *Endpoint) sendTo(ctx context.Context, id identity.ID, frame []byte) error {
	if local := e.n.endpoint(id); local != nil {
		return e.hand(ctx, local, frame)
	}
	p := e.peer(id)
	if p == nil {
		return transport.ErrUnreachable
	}
	if e.n.c.WhenFull == transport.Block {
		return p.send(ctx, frame)
	}
	return p.trySend(frame).err()
}

// err is what Send returns for r.
func (r result) err() error {
	return [...]error{sent: nil, full: transport.ErrQueueFull, away: transport.ErrUnreachable}[r]
}

// sendToMany sends to those who have room, then to the others.
func (e *Endpoint) sendToMany(ctx context.Context, to transport.Route, frame []byte) (missed int, err error) {
	peers, locals := e.audience(to.Topics)
	var later []func() error
	for _, p := range peers {
		if p.trySend(frame) == full {
			later = append(later, func() error { return e.sendTo(ctx, p.id, frame) })
		}
	}
	for _, local := range locals {
		if !local.inbox.tryPut(bytes.Clone(frame)) {
			later = append(later, func() error { return e.hand(ctx, local, frame) })
		}
	}
	for _, again := range later {
		// One that is away by now has left, and with it the duty to reach it.
		if sendErr := again(); sendErr != nil && !errors.Is(sendErr, transport.ErrUnreachable) {
			missed++
			err = sendErr
		}
	}
	return missed, err
}

// audience returns who hears the topics, or, if there are none, who hears all: peers that are not down, and
// endpoints of this network.
func (e *Endpoint) audience(topics []message.Topic) (peers []*peer, locals []*Endpoint) {
	locals = e.n.audience(e, topics)
	if len(topics) > 0 {
		peers = e.subs.audience(topics)
	} else {
		peers = e.allPeers()
	}
	return e.n.elsewhere(peers), locals
}

// hand gives a frame to an endpoint of the same network.
func (e *Endpoint) hand(ctx context.Context, to *Endpoint, frame []byte) error {
	frame = bytes.Clone(frame)
	if to.inbox.tryPut(frame) {
		return nil
	}
	if e.n.c.WhenFull == transport.DropNewest {
		to.inbox.refuse()
		return transport.ErrQueueFull
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.open, func() { cancel(transport.ErrClosed) })()
	if to.inbox.put(ctx.Done(), [][]byte{frame}) {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return transport.ErrUnreachable
}

// Receive implements [transport.Transport].
func (e *Endpoint) Receive(ctx context.Context) (transport.Frame, error) {
	if e.state.Load() == stateNew {
		return transport.Frame{}, transport.ErrNotStarted
	}
	data, err := e.inbox.get(ctx)
	return transport.Frame{Data: data}, err
}

// Dropped implements [transport.Dropper].
func (e *Endpoint) Dropped() uint64 {
	e.inbox.mu.Lock()
	defer e.inbox.mu.Unlock()
	return e.inbox.dropped
}

func (e *Endpoint) isClosing() bool { return e.state.Load() == stateClosed }

// Close implements [transport.Transport]. It sends what is queued, for Config.Linger at most, and says
// goodbye. Frames that were not received are gone.
func (e *Endpoint) Close() error {
	before, first := e.n.leave(e)
	if !first {
		<-e.closed
		return nil
	}
	defer close(e.closed)
	e.shut()
	e.inbox.close()
	e.n.moved(e.id)
	if before == stateStarted {
		e.sayGoodbye()
	}
	e.stop()
	for _, p := range e.allPeers() {
		p.remove()
	}
	e.running.Wait()
	return nil
}

// sayGoodbye sends what is queued, and waits until the peers have closed the connections.
func (e *Endpoint) sayGoodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), e.n.c.Linger)
	defer cancel()
	var leaving sync.WaitGroup
	for _, p := range e.allPeers() {
		leaving.Go(func() { p.finish(ctx) })
	}
	leaving.Wait()
}
