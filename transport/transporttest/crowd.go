package transporttest

import (
	"sync"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// testThousandPeers has one agent answer a thousand, and speak to all of them.
func testThousandPeers(t *testing.T, c *cast) {
	hub, others := c.crowd(crowdSize)
	hub.start()
	starting := make(chan struct{}, 16)
	var starts sync.WaitGroup
	for _, a := range others {
		starting <- struct{}{}
		starts.Go(func() {
			defer func() { <-starting }()
			ctx, cancel := a.soon()
			defer cancel()
			if err := a.Start(ctx); err != nil {
				t.Errorf("Start: %v", err)
			}
		})
	}
	starts.Wait()
	if t.Failed() {
		return
	}
	const rounds = 3
	var talks sync.WaitGroup
	talks.Go(func() { hub.answer(rounds * crowdSize) })
	for _, a := range others {
		talks.Go(func() { a.greet(hub, rounds) })
	}
	talks.Wait()
	if t.Failed() {
		return
	}
	hub.mustSend(transport.Route{}, "to all")
	for _, a := range others {
		a.expect("to all")
	}
}

func (c *cast) crowd(size int) (hub *actor, others []*actor) {
	c.t.Helper()
	center, ids := newIdentity(c.t), make([]*identity.Identity, size)
	for i := range ids {
		ids[i] = newIdentity(c.t)
	}
	crowder, ok := c.fabric.(Crowder)
	if !ok {
		hub = c.attach(center, c.fabric.Transport(c.t, center))
		for _, id := range ids {
			others = append(others, c.attach(id, c.fabric.Transport(c.t, id)))
		}
		return hub, others
	}
	first, rest := crowder.Crowd(c.t, center, ids)
	if len(rest) != size {
		c.t.Fatalf("Crowd returned %d transports for %d agents", len(rest), size)
	}
	for i, tr := range rest {
		others = append(others, c.attach(ids[i], tr))
	}
	return c.attach(center, first), others
}

// answer returns n frames to those whose IDs they hold.
func (a *actor) answer(n int) {
	ctx, cancel := a.soon()
	defer cancel()
	for i := range n {
		frame, err := a.receive(ctx)
		if err != nil {
			a.t.Errorf("the agent in the middle received %d frames of %d: %v", i, n, err)
			return
		}
		var to transport.Route
		copy(to.To[:], frame)
		if err := a.Send(ctx, to, frame); err != nil {
			a.t.Errorf("answer: %v", err)
			return
		}
	}
}

// greet sends the hub frames, each with the sender's ID, and wants each back.
func (a *actor) greet(hub *actor, rounds int) {
	ctx, cancel := a.soon()
	defer cancel()
	id := a.id.ID()
	for i := range rounds {
		frame := append(id[:], byte(i))
		if err := a.Send(ctx, hub.direct(), frame); err != nil {
			a.t.Errorf("greeting %d: %v", i, err)
			return
		}
		answer, err := a.receive(ctx)
		if err != nil {
			a.t.Errorf("answer %d: %v", i, err)
			return
		}
		if string(answer) != string(frame) {
			a.t.Errorf("answer %d is meant for another: %x", i, answer)
		}
	}
}
