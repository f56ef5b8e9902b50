package websocket_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport/websocket"
)

// keyed is a scene in which alice holds the keys of her peers against a registry, and everybody has an operational key.
type keyed struct {
	*scene
	alices, bobs *identity.Registry
	bobsRoot     *identity.Identity
}

func newKeyed(t *testing.T, proof websocket.Proof) *keyed {
	k := &keyed{
		scene:  &scene{t: t, proof: proof, log: &logbook{}, mallory: newAgent(t)},
		alices: identity.NewRegistry(0), bobs: identity.NewRegistry(0), bobsRoot: newAgent(t),
	}
	k.alice, k.bob = k.rotate(newAgent(t), identity.Rotation{}), k.rotate(k.bobsRoot, identity.Rotation{})
	c := websocket.Config{
		Proof: proof, Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(k.log, nil)), Keys: k.alices,
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Peers: []websocket.Peer{{ID: k.bob.ID()}},
	}
	k.network, k.listener = k.start(k.alice, c)
	c.Listen, c.Proof, c.Keys, c.Logger = "", websocket.Certificate, k.bobs, slog.New(slog.DiscardHandler)
	c.Peers = []websocket.Peer{{ID: k.alice.ID(), Address: k.url(), Proof: proof}}
	k.scene.bobs, k.speaker = k.start(k.bob, c)
	k.honest()
	return k
}

func (k *keyed) rotate(root *identity.Identity, r identity.Rotation) *identity.Identity {
	k.t.Helper()
	next, err := root.Rotate(r)
	if err != nil {
		k.t.Fatal(err)
	}
	return next
}

func TestOperationalKeysAreProvedAndRotated(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		k := newKeyed(t, proof)
		for who, keys := range map[*identity.Identity]*identity.Registry{k.alice: k.bobs, k.bob: k.alices} {
			if key, err := keys.Lookup(who.ID()); err != nil || key.Epoch != 1 || !key.Public.Equal(who.PublicKey()) {
				t.Errorf("the other end knows epoch %d, %v", key.Epoch, err)
			}
		}
		if err := k.speaker.Rotate(k.rotate(k.bobsRoot, identity.Rotation{Current: k.bob.Statement()})); err != nil {
			t.Fatal(err)
		}
		k.honest()
		if key, err := k.alices.Lookup(k.bob.ID()); err != nil || key.Epoch != 2 {
			t.Errorf("alice knows epoch %d, %v", key.Epoch, err)
		}
		if stats := k.network.Stats(); stats.Opened != 1 || stats.Closed != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// promptly is within a second, which package mesh proves by a clock of its own, and what a busy machine adds to it. It is
// much less than it takes to find out that a peer is silent.
const promptly = 10 * time.Second

func TestRevokedPeerIsDisconnected(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		k := newKeyed(t, proof)
		raw, err := k.bobsRoot.Revoke(nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := k.alices.Apply(raw); err != nil {
			t.Fatal(err)
		}
		k.until("bob is disconnected", func() bool { return k.network.Stats().Connections == 0 })
		if took := time.Since(begin); took > promptly {
			t.Errorf("disconnected after %v", took)
		}
		k.until("bob is refused when he comes back", func() bool { return k.network.Stats().Refused["revoked"] >= 3 })
		if stats := k.network.Stats(); stats.Opened != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestStolenKeyIsRefused has a thief use the key of the epoch before with the statement that was once true of it.
func TestStolenKeyIsRefused(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		k := newKeyed(t, proof)
		stolen := k.bob
		next := k.rotate(k.bobsRoot, identity.Rotation{Current: stolen.Statement(), NoOverlap: true})
		if _, err := k.alices.Apply(next.Statement()); err != nil {
			t.Fatal(err)
		}
		// He is connected, and dials again and again.
		k.until("the thief is refused", func() bool { return k.network.Stats().Refused["wrong_key"] >= 2 })
		if stats := k.network.Stats(); stats.Opened != 1 || stats.Connections != 0 {
			t.Errorf("%+v", stats)
		}
		if err := k.speaker.Rotate(next); err != nil {
			t.Fatal(err)
		}
		k.honest()
	})
}
