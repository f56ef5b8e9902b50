package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
)

// errNotNeeded ends an attempt to dial: there is a link by now, or the peer was removed.
var errNotNeeded = errors.New("the connection is not needed any more")

// update changes what is known of the peer, and sees to it that a peer with an address is dialled.
func (p *peer) update(info Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info = info
	if info.Address != "" && !p.dialling && !p.removed {
		p.dialling = true
		p.e.running.Go(p.keepDialling)
	}
	p.broadcast()
}

// keepDialling dials whenever there is no link, until the peer is removed.
func (p *peer) keepDialling() {
	c := &p.e.n.c
	backoff := c.MinBackoff
	for asked := time.Now(); p.awaitNeed(); asked = time.Now() {
		begin := time.Now()
		err := p.dial()
		if err != nil {
			p.failed(err)
		}
		lasted := err == nil && time.Since(begin) > c.MaxBackoff
		if lasted || begin.Sub(asked) > c.MaxBackoff { // there was a good connection, ours or theirs
			backoff = c.MinBackoff
		}
		p.pause(rand.N(p.limit(backoff)))
		backoff = min(2*backoff, c.MaxBackoff)
	}
}

// limit bounds a pause: as long as frames are queued for the peer, it is tried a few times before they are
// lost.
func (p *peer) limit(backoff time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return backoff
	}
	return min(backoff, max(p.e.n.c.Grace/4, p.e.n.c.MinBackoff))
}

// awaitNeed waits until there is reason to dial. It returns false if there never will be.
func (p *peer) awaitNeed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.removed {
		leaving := p.e.isClosing() && p.out.empty()
		if p.link == nil && p.info.Address != "" && !leaving && !p.refused() && p.e.n.endpoint(p.id) == nil {
			return true
		}
		changed := p.changed
		p.mu.Unlock()
		<-changed
		p.mu.Lock()
	}
	return false
}

// pause waits for d, or until the peer is removed or has another address.
func (p *peer) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for address := p.info.Address; !p.removed && p.info.Address == address; {
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
			p.mu.Lock()
		case <-timer.C:
			p.mu.Lock()
			return
		}
	}
}

// failed notes why an attempt to dial was in vain.
func (p *peer) failed(err error) {
	if errors.Is(err, errDuplicate) { // the other connection of the pair is on its way
		return
	}
	p.mu.Lock()
	first := p.link == nil && !p.removed && !p.up && !p.tried
	if p.link == nil {
		p.cause = err
	}
	p.tried = true
	p.broadcast()
	p.mu.Unlock()
	if first {
		p.log(slog.LevelWarn, "cannot reach peer yet", slog.Any("error", err))
	}
}

// dial makes a link and runs it. The error says why there was none.
func (p *peer) dial() error {
	ctx, cancel := context.WithTimeout(p.e.dialling, p.e.n.c.HandshakeTimeout)
	defer cancel()
	p.mu.Lock()
	info := p.info
	p.mu.Unlock()
	l, err := p.connect(ctx, info)
	if refusal, ok := errors.AsType[*peertls.Refusal](err); ok {
		p.e.n.ledger.refuse(refusal.Reason, refusal.Err, slog.String("peer", info.Name), slog.String("address", info.Address))
	}
	if err != nil {
		return fmt.Errorf("dial %s: %w", info.Address, err)
	}
	cancel()
	l.run()
	return nil
}

// connect returns a link that has been greeted and answered.
func (p *peer) connect(ctx context.Context, info Peer) (*link, error) {
	s, err := p.e.n.kind.Dial(ctx, p.e.credential, info)
	if err != nil {
		return nil, err
	}
	l := newLink(p, s, true)
	if err := p.introduce(ctx, l); err != nil {
		p.ungreet(l)
		p.e.subs.detach(l)
		s.closeFor(err)
		return nil, err
	}
	return l, nil
}

func (p *peer) introduce(ctx context.Context, l *link) error {
	if l.stream.Self != p.e.id || l.stream.Peer != p.id {
		return &peertls.Refusal{Reason: peertls.WrongKey, Err: fmt.Errorf("agent %s answers where %s is called", l.stream.Peer, p.id)}
	}
	epoch, err := p.e.n.proved(l.stream)
	if err != nil {
		return err
	}
	l.epoch.Store(epoch)
	if !p.greet(l) {
		return errNotNeeded
	}
	if err := l.writeAll(l.takeControl()); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	h, err := l.awaitHello(p.e.dialling, deadline)
	if err != nil {
		return err
	}
	if h.link == 0 {
		return refusalOf(fmt.Errorf("%w: a hello without a number", errMalformed))
	}
	if !p.answered(l, h) {
		return errNotNeeded
	}
	return nil
}
