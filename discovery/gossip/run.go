package gossip

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// Run tells and hears until ctx ends; then it says what is left to be said, withdrawals for instance, and
// returns nil. The error says that the store cannot be followed. The caller ends it after the agents have
// withdrawn, and before Send stops working. It is called once.
func (g *Gossip) Run(ctx context.Context) error {
	stop, err := g.Service.Follow(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("gossip: %w", err)
	}
	defer stop()
	watching, end := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer end()
	failed := make(chan error, 1)
	wait.Go(func() { failed <- g.watch(watching) })
	return g.loop(ctx, failed)
}

// watch notes what changes in the store. A watch that falls behind begins again.
func (g *Gossip) watch(ctx context.Context) error {
	for {
		for entry, err := range g.Service.Changes(ctx) {
			if errors.Is(err, store.ErrCompacted) {
				break
			}
			if err != nil {
				return err
			}
			g.note(entry)
			select {
			case g.changes <- struct{}{}:
			default:
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (g *Gossip) loop(ctx context.Context, failed <-chan error) error {
	g.swept = time.Now()
	for {
		timer := time.NewTimer(g.untilDue())
		select {
		case <-ctx.Done():
			timer.Stop()
			g.farewell(ctx)
			return nil
		case err := <-failed:
			timer.Stop()
			if ctx.Err() != nil {
				g.farewell(ctx)
				return nil
			}
			return fmt.Errorf("gossip: watch the store: %w", err)
		case m := <-g.heard:
			g.read(m)
			g.hear(ctx, m)
		case <-g.changes:
		case <-timer.C:
		}
		timer.Stop()
		g.act(ctx)
	}
}

// note has a change of the store be said, at once if this process has made it.
func (g *Gossip) note(e discovery.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := name{e.ID, e.Statement}
	relay := string(g.arriving[n]) == string(e.Raw)
	if relay {
		delete(g.arriving, n)
	}
	g.noted[n] = maphash.Bytes(g.seed, e.Raw)
	g.add(n, e.Raw, relay)
}

// missed reports whether a change of the store was not noted.
func (g *Gossip) missed(e discovery.Entry) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.noted[name{e.ID, e.Statement}] != maphash.Bytes(g.seed, e.Raw)
}

// add wants mu held.
func (g *Gossip) add(n name, raw []byte, relay bool) {
	if p := g.pending[n]; p != nil {
		if p.raw = raw; p.relay && !relay {
			p.relay, p.due = false, time.Now()
			g.own = append(g.own, n)
		}
		return
	}
	p := &news{raw: raw, relay: relay, due: time.Now()}
	g.pending[n] = p
	if relay {
		p.due = p.due.Add(time.Duration(rand.Int64N(int64(g.Relay) + 1)))
		g.relayed = append(g.relayed, n)
		return
	}
	g.own = append(g.own, n)
}

// said forgets what somebody else has passed on meanwhile.
func (g *Gossip) said(n name, raw []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.pending[n]; p != nil && p.relay && string(p.raw) == string(raw) {
		delete(g.pending, n)
	}
}

// due returns the items of the next message.
func (g *Gossip) due(now time.Time) (items []item) {
	g.mu.Lock()
	defer g.mu.Unlock()
	size := 0
	for _, queue := range []*[]name{&g.own, &g.relayed} {
		for len(*queue) > 0 && len(items) < MaxItems && size < goodBody {
			n := (*queue)[0]
			p := g.pending[n]
			if p != nil && p.due.After(now) {
				break
			}
			if *queue = (*queue)[1:]; p == nil {
				continue
			}
			delete(g.pending, n)
			items = append(items, item{n, p.raw, p.tries})
			size += len(p.raw)
		}
	}
	return items
}

// untilDue returns how long it is until there is something to say or to ask.
func (g *Gossip) untilDue() time.Duration {
	next := g.ask
	if next.IsZero() {
		return 0
	}
	if g.asked {
		next = earlier(next, g.answered.Add(answerEvery))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, queue := range [][]name{g.own, g.relayed} {
		if len(queue) == 0 {
			continue
		}
		if p := g.pending[queue[0]]; p != nil {
			next = earlier(next, p.due)
		} else {
			next = earlier(next, time.Now())
		}
	}
	return max(time.Until(next), pace)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// act asks, answers and says what is due.
func (g *Gossip) act(ctx context.Context) {
	now := time.Now()
	if !now.Before(g.ask) {
		g.say(ctx, request, nil)
		g.ask = now.Add(g.patience + time.Duration(rand.Int64N(int64(g.patience))))
		g.patience = min(2*g.patience, 5*g.Service.TTL())
	}
	if g.asked && !now.Before(g.answered.Add(answerEvery)) {
		g.asked, g.answered = false, now
		g.passOnAll(ctx)
	}
	if items := g.due(now); len(items) > 0 {
		g.say(ctx, announce, items)
	}
	if now.Sub(g.swept) >= sweepEvery {
		g.swept = now
		g.sweep(ctx)
	}
}

// passOnAll passes on all that is known, in random order, so that those who answer together say each a part.
func (g *Gossip) passOnAll(ctx context.Context) {
	var all []discovery.Entry
	for e, err := range g.Service.Entries(ctx) {
		if err != nil {
			g.Logger.Warn("cannot tell what is known of other agents", "error", err)
			break
		}
		all = append(all, e)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range all {
		g.add(name{e.ID, e.Statement}, e.Raw, true)
	}
}

func (g *Gossip) say(ctx context.Context, k kind, items []item) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	err := g.Send(ctx, message.Draft{ContentType: ContentType, Body: encode(k, items), Public: true})
	if err != nil {
		g.Logger.Debug("not everybody was told about agents", "error", err)
		g.sayAgain(items)
	}
	g.stats.sent.Add(1)
}

// maxTries bounds how often an item is said that does not reach everybody. Who has missed it hears of it when
// it is renewed, or asks.
const maxTries = 5

func (g *Gossip) sayAgain(items []item) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range items {
		if g.pending[i.name] == nil && i.tries < maxTries {
			g.pending[i.name] = &news{raw: i.raw, tries: i.tries + 1, due: time.Now().Add(g.Relay << i.tries)}
			g.relayed = append(g.relayed, i.name)
		}
	}
}

// farewell says what this process has to say of its own.
func (g *Gossip) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	for e, err := range g.Service.Entries(ctx) {
		if err == nil && g.missed(e) { // the watch has ended
			g.note(e)
		}
	}
	g.mu.Lock()
	g.relayed = nil
	g.mu.Unlock()
	for ctx.Err() == nil {
		items := g.due(time.Now())
		if len(items) == 0 {
			return
		}
		g.say(ctx, announce, items)
	}
}

// sweep forgets what has run out.
func (g *Gossip) sweep(ctx context.Context) {
	if _, err := g.Service.Sweep(ctx); err != nil {
		g.Logger.Warn("descriptors that have run out stay in the store", "error", err)
	}
	g.mu.Lock()
	for n := range g.noted {
		if !n.statement && !g.Service.Knows(n.id) {
			delete(g.noted, n)
		}
	}
	g.mu.Unlock()
	for id, from := range g.introduced {
		if !g.Service.Knows(id) {
			delete(g.introduced, id)
			g.senders[from].brought--
		}
	}
	for id, s := range g.senders {
		if s.refill(time.Now()); s.left >= allowance && s.brought == 0 {
			delete(g.senders, id)
		}
	}
}

// sender is what is known of a peer that is heard.
type sender struct {
	id      identity.ID
	left    float64 // of its allowance
	filled  time.Time
	brought int // agents that are in because of it
}

func (s *sender) refill(now time.Time) {
	s.left = min(allowance, s.left+refill*now.Sub(s.filled).Seconds())
	s.filled = now
}
