package converge_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// busy is an agent whose first turn lasts until it is let go.
func busy() (a *script, letGo func()) {
	gate := make(chan struct{})
	a = &script{decide: func(converge.Turn) []converge.Decision { <-gate; return nil }}
	return a, func() { close(gate) }
}

func (w *world) apply(raw []byte) {
	w.t.Helper()
	if _, err := w.registry.Apply(raw); err != nil {
		w.t.Fatal(err)
	}
}

// TestWaitingMessagesOfARevokedSenderAreDropped revokes an agent whose messages are in an inbox.
func TestWaitingMessagesOfARevokedSenderAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		agent, letGo := busy()
		a := w.run(w.config(agent))
		synctest.Wait()
		mallory, bob := w.peer(), w.peer()
		mallory.say(a.ID(), "waits")
		bob.say(a.ID(), "honest")
		mallory.say(a.ID(), "waits too")
		synctest.Wait()
		w.apply(must(mallory.id.Revoke(nil)))
		letGo()
		synctest.Wait()
		if got := agent.bodies(); !slices.Equal(got, []string{"honest"}) {
			t.Errorf("the agent has seen %q", got)
		}
		mallory.say(a.ID(), "comes later")
		synctest.Wait()
		if got := a.Stats(); got.Withdrawn["revoked"] != 2 || got.Refused["revoked"] != 1 || got.Verified != 3 {
			t.Errorf("withdrawn %v, refused %v, verified %d", got.Withdrawn, got.Refused, got.Verified)
		}
	})
}

// TestWaitingMessagesOfAStolenKeyAreDropped is the rotation of an emergency, and the one that is none.
func TestWaitingMessagesOfAStolenKeyAreDropped(t *testing.T) {
	for name, r := range map[string]struct {
		rotation identity.Rotation
		want     []string
	}{
		"without overlap": {identity.Rotation{NoOverlap: true}, nil},
		"with overlap":    {identity.Rotation{Overlap: time.Millisecond}, []string{"waits"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				agent, letGo := busy()
				a := w.run(w.config(agent))
				synctest.Wait()
				bob := w.peer()
				bob.say(a.ID(), "waits")
				synctest.Wait()
				w.apply(must(bob.id.Rotate(r.rotation)).Statement())
				time.Sleep(time.Second) // of the bubble: the overlap is over
				letGo()
				synctest.Wait()
				if got := agent.bodies(); !slices.Equal(got, r.want) {
					t.Errorf("the agent has seen %q, want %q", got, r.want)
				}
			})
		})
	}
}

// TestDrainDoesNotWaitForWhatItDropped has all that waits be withdrawn when the agent stops.
func TestDrainDoesNotWaitForWhatItDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		agent, letGo := busy()
		a := w.run(w.config(agent))
		synctest.Wait()
		mallory := w.peer()
		mallory.say(a.ID(), "waits")
		synctest.Wait()
		w.apply(must(mallory.id.Revoke(nil)))
		a.stop()
		start := time.Now()
		letGo()
		if err := <-a.err; err != nil || time.Since(start) > time.Second {
			t.Errorf("stopped after %v: %v", time.Since(start), err)
		}
	})
}

func TestRunningAgentGetsAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := w.peer()
		c := w.config(&script{decide: func(t converge.Turn) (all []converge.Decision) {
			for _, m := range t.Messages {
				all = append(all, converge.SendMessage{Draft: message.Draft{To: m.Sender(), Body: m.Body()}})
			}
			return all
		}})
		a := w.run(c)
		synctest.Wait()
		ask := func(body string) *message.Message {
			bob.say(a.ID(), body)
			m, err := bob.Receive(t.Context())
			if err != nil || string(m.Body()) != body {
				t.Fatalf("%v, %v", m, err)
			}
			return m
		}
		before := ask("before")
		next := must(c.Identity.Rotate(identity.Rotation{}))
		if err := a.Rotate(next); err != nil {
			t.Fatal(err)
		}
		after := ask("after")
		if before.Epoch() != 0 || after.Epoch() != 1 || after.Session() != before.Session() {
			t.Errorf("epoch %d, then %d", before.Epoch(), after.Epoch())
		}
		early := must(c.Identity.Rotate(identity.Rotation{Current: next.Statement(), NotBefore: time.Now().Add(time.Hour)}))
		for what, id := range map[string]*identity.Identity{"the root key": c.Identity, "another agent's": bob.id, "one before its time": early} {
			if err := a.Rotate(id); err == nil {
				t.Errorf("%s: rotated", what)
			}
		}
		w.apply(must(c.Identity.Revoke(next.Statement())))
		if err := a.Rotate(must(c.Identity.Rotate(identity.Rotation{Current: next.Statement()}))); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("rotated though revoked: %v", err)
		}
	})
}

func TestAgentDoesNotStartWithAKeyThatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(&script{})
		c.Identity = must(c.Identity.Rotate(identity.Rotation{Lifetime: time.Hour}))
		time.Sleep(time.Hour)
		if err := must(converge.New(c)).Run(t.Context()); !errors.Is(err, identity.ErrNotInForce) {
			t.Errorf("Run: %v", err)
		}
	})
}
