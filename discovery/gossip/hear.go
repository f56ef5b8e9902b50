package gossip

import (
	"context"
	"errors"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
)

// hear takes in what a peer has said.
func (g *Gossip) hear(ctx context.Context, m heard) {
	s := g.senderOf(m.from)
	if s == nil {
		g.stats.dropped.Add(1)
		return
	}
	k, items, err := parse(m.body)
	if err != nil {
		g.stats.malformed.Add(1)
		g.Logger.Debug("discovery message refused", "from", m.from, "error", err)
		return
	}
	if k == request {
		g.asked = true
		return
	}
	for _, i := range items {
		g.hearItem(ctx, s, i)
	}
	if len(items) > 0 {
		g.patience = 5 * g.Service.TTL() // somebody answers
	}
}

// senderOf returns nil if there are too many.
func (g *Gossip) senderOf(id identity.ID) *sender {
	s := g.senders[id]
	if s == nil {
		if len(g.senders) >= maxSenders {
			return nil
		}
		s = &sender{id: id, left: allowance, filled: time.Now()}
		g.senders[id] = s
	}
	return s
}

// oldCost is what reading an item costs that is known already, of verifying one.
const oldCost = 1. / 16

// hearItem takes in one item, if its sender has work left that it may cause.
func (g *Gossip) hearItem(ctx context.Context, s *sender, i item) {
	if s.refill(time.Now()); s.left < 1 {
		g.stats.refused.Add(1)
		return
	}
	s.left--
	var err error
	if i.statement {
		err = g.hearStatement(ctx, i.raw)
	} else {
		err = g.hearDescriptor(ctx, s, i.raw)
	}
	switch {
	case err == nil:
		g.stats.taken.Add(1)
	case errors.Is(err, discovery.ErrOld):
		s.left += 1 - oldCost
		g.stats.old.Add(1)
	default:
		g.stats.refused.Add(1)
		g.Logger.Debug("what a peer has passed on does not count", "from", s.id, "error", err)
	}
}

func (g *Gossip) hearDescriptor(ctx context.Context, s *sender, raw []byte) error {
	id, err := discovery.Claims(raw)
	if err != nil {
		return err
	}
	n := name{id, false}
	g.expect(n, raw)
	d, err := g.Service.Import(ctx, raw, func(d discovery.Descriptor) bool { return g.admit(d, s) })
	if err != nil {
		g.unexpect(n, raw)
		if errors.Is(err, discovery.ErrOld) {
			g.said(n, raw)
		}
		return err
	}
	if g.Reach != nil && !d.Withdrawn {
		g.Reach(d)
	}
	return nil
}

// admit decides on an agent that the service does not know.
func (g *Gossip) admit(d discovery.Descriptor, s *sender) bool {
	if g.Known != nil && g.Known(d.ID) {
		return true
	}
	if g.Admit == nil || s.brought >= g.Introduced || !g.Admit(d, s.id) {
		return false
	}
	if _, again := g.introduced[d.ID]; !again {
		g.introduced[d.ID] = s.id
		s.brought++
	}
	return true
}

func (g *Gossip) hearStatement(ctx context.Context, raw []byte) error {
	statement, err := identity.OpenKeys(raw)
	if err != nil {
		return err
	}
	n := name{statement.ID, true}
	g.expect(n, raw)
	changed, err := g.Service.ImportStatement(ctx, raw)
	if err == nil && changed {
		return nil
	}
	g.unexpect(n, raw)
	if err == nil {
		g.said(n, raw)
		return discovery.ErrOld
	}
	return err
}

// expect has the change that is to come be passed on, and not said as this process's own.
func (g *Gossip) expect(n name, raw []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.arriving[n] = raw
}

func (g *Gossip) unexpect(n name, raw []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if string(g.arriving[n]) == string(raw) {
		delete(g.arriving, n)
	}
}
