package mesh

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
)

// peer is an agent elsewhere as one endpoint sees it. There is at most one link at a time. Without
// one, the peer is connecting, and frames are queued, until its grace is over; then it is down.
type peer struct {
	e  *Endpoint
	id identity.ID

	mu       sync.Mutex
	info     Peer
	link     *link  // carries data; nil while there is none
	last     *link  // the same, or the one before, which may have ended
	draining *link  // one before that or last itself, which may still have frames to hand over
	greeting *link  // dialled by us, has our hello, and waits for an answer
	lost     uint64 // the number of the last link, if there was one and it has ended
	down     bool
	up       bool // there was a link, and the grace after it is not over: so the log has it
	removed  bool
	dialling bool  // a goroutine dials when there is need to
	tried    bool  // its first attempt is over
	cause    error // of the last link's end, or of the last attempt to dial
	out      outbox
	waiting  int           // how many wait for the outbox to empty
	changed  chan struct{} // closed, and made anew, at each change that somebody may wait for
	grace    *time.Timer
}

func newPeer(e *Endpoint, info Peer) *peer {
	p := &peer{e: e, id: info.ID, info: info, changed: make(chan struct{})}
	p.grace = time.AfterFunc(e.n.c.Grace, p.giveUp)
	return p
}

// broadcast wakes all who wait for a change; p.mu is held.
func (p *peer) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// result is what became of a frame.
type result uint8

const (
	sent result = iota
	full
	away // the peer is down, or no peer any more
)

// trySend queues a frame if there is room.
func (p *peer) trySend(frame []byte) result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.offer(frame)
}

func (p *peer) offer(frame []byte) result {
	switch {
	case p.down || p.removed:
		return away
	case !p.out.empty() && p.out.bytes+headerSize+len(frame) > p.e.n.c.Queue:
		return full
	}
	p.out.add(frame)
	if p.link != nil {
		p.link.rouse()
	}
	return sent
}

// send queues a frame, and waits for room if there is none.
func (p *peer) send(ctx context.Context, frame []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch p.offer(frame) {
		case sent:
			return nil
		case away:
			return transport.ErrUnreachable
		}
		if err := p.await(ctx); err != nil {
			return err
		}
	}
}

// await waits for a change; p.mu is held before and after.
func (p *peer) await(ctx context.Context) (err error) {
	changed := p.changed
	p.waiting++
	p.mu.Unlock()
	select {
	case <-changed:
	case <-p.e.open.Done():
		err = transport.ErrClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	p.waiting--
	return err
}

// written removes the block that a link has written.
func (p *peer) written(b *block) {
	p.e.n.ledger.framesOut.Add(uint64(b.frames))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.empty() || p.out.blocks[0] != b { // it was dropped meanwhile
		return
	}
	p.out.written()
	if p.waiting > 0 && p.out.bytes <= p.e.n.c.Queue/2 {
		p.broadcast()
	}
}

// greet says that l, which we dialled, is about to send the hello that is put into its control frames. It
// returns false if the connection is not needed any more.
func (p *peer) greet(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil || p.removed {
		return false
	}
	p.greeting = l
	p.e.subs.attach(l, p.lost)
	return true
}

// ungreet ends a greeting that got no answer.
func (p *peer) ungreet(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.greeting == l {
		p.greeting = nil
	}
}

// answered makes the link that we dialled the peer's link, unless another one was preferred meanwhile.
func (p *peer) answered(l *link, h hello) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.greeting != l || p.removed || l.keyFault() != nil {
		return false
	}
	p.greeting = nil
	l.number = h.link
	p.install(l, h)
	l.push(appendChange(nil, typeAck, h.change, ""))
	return true
}

// welcome decides about a link that the peer dialled. Of two that are dialled at the same time, the one
// that the smaller ID dialled stays: when each end sees the other's hello after it has sent its own,
// both come to the same decision. A peer that dials again has lost what it had.
func (p *peer) welcome(l *link, h hello) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed {
		return &peertls.Refusal{Reason: peertls.UnknownPeer, Err: errRemoved}
	}
	if err := l.keyFault(); err != nil { // by now
		return keyRefusal(err)
	}
	ours := bytes.Compare(p.e.id[:], p.id[:]) < 0
	if old := p.link; old != nil && old.dialled && ours && h.link != old.number {
		old.probe()
		return &peertls.Refusal{Reason: Duplicate, Err: errReplaced}
	}
	if g := p.greeting; g != nil {
		if ours {
			return &peertls.Refusal{Reason: Duplicate, Err: errReplaced}
		}
		p.greeting = nil
		g.kill(errReplaced)
	}
	p.e.subs.attach(l, l.number)
	p.install(l, h)
	return nil
}

// install makes l the peer's link; p.mu is held.
func (p *peer) install(l *link, h hello) {
	if p.last != nil {
		p.draining = l.follow(p.last, p.draining)
	}
	p.last = l
	p.e.running.Add(1) // for the reader
	p.link, p.down, p.cause = l, false, nil
	p.grace.Stop()
	p.e.subs.announced(p, h.patterns)
	p.e.n.ledger.opened.Inc()
	p.broadcast()
	l.pushKeys() // the key may have changed since the handshake
}

// arrived logs that the peer is there, unless the log has that already.
func (p *peer) arrived(l *link) {
	p.mu.Lock()
	first := !p.up && p.link == l
	p.up = p.up || first
	p.mu.Unlock()
	if first {
		p.log(slog.LevelInfo, "peer connected", remote(l.stream))
	}
}

// unlink says that a link has ended.
func (p *peer) unlink(l *link, cause error) {
	p.e.n.ledger.closed.Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return
	}
	p.link, p.lost, p.cause = nil, l.number, cause
	if !p.removed {
		p.grace.Reset(p.e.n.c.Grace)
	}
	p.broadcast()
}

// giveUp ends the peer's grace: what is queued is lost.
func (p *peer) giveUp() {
	p.mu.Lock()
	if p.link != nil || p.down || p.removed {
		p.mu.Unlock()
		return
	}
	p.down = true
	note := p.forsake()
	p.mu.Unlock()
	note()
}

// remove ends everything that the peer has.
func (p *peer) remove() {
	p.mu.Lock()
	if p.removed {
		p.mu.Unlock()
		return
	}
	p.removed = true
	p.grace.Stop()
	for _, l := range []*link{p.last, p.greeting, p.draining} {
		if l != nil {
			l.kill(errRemoved)
		}
	}
	note := p.forsake()
	p.mu.Unlock()
	note()
}

// forsake drops what is queued and forgets the subscriptions. It returns what is to be called when p.mu
// is not held any more: it logs.
func (p *peer) forsake() func() {
	frames := p.out.drop()
	p.e.subs.announced(p, nil)
	p.e.n.ledger.lost.Add(uint64(frames))
	p.broadcast()
	level, up := slog.LevelInfo, p.up
	p.up = false
	if frames > 0 {
		level = slog.LevelWarn
	}
	if frames == 0 && (!up || p.removed || p.e.isClosing()) {
		return func() {}
	}
	attrs := []slog.Attr{slog.Int("frames_lost", frames)}
	if p.cause != nil {
		attrs = append(attrs, slog.Any("error", p.cause))
	}
	return func() { p.log(level, "peer lost", attrs...) }
}

// log logs a line about the peer; p.mu is not held.
func (p *peer) log(level slog.Level, text string, attrs ...slog.Attr) {
	p.mu.Lock()
	about := []slog.Attr{
		slog.String("agent", p.e.id.Short()), slog.String("peer", p.info.Name), slog.String("id", p.id.String()),
		slog.String("address", p.info.Address),
	}
	p.mu.Unlock()
	p.e.n.ledger.log.LogAttrs(context.Background(), level, text, append(about, attrs...)...)
}

func (p *peer) connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link != nil
}

// awaitFirst waits until there is a link, or there has been a first attempt to make one.
func (p *peer) awaitFirst(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.link == nil && p.dialling && !p.tried && !p.removed {
		if p.await(ctx) != nil {
			return
		}
	}
}

// finish sends what is queued, says goodbye, and waits until the peer has closed the connection.
func (p *peer) finish(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.removed && (p.link != nil || !p.out.empty() && !p.down) {
		if p.link != nil {
			p.link.finishUp()
		}
		changed := p.changed
		p.waiting++
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.waiting--
		if ctx.Err() != nil {
			return
		}
	}
}

// stir makes those who wait look again.
func (p *peer) stir() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broadcast()
}
