package tcp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

func keyring() *identity.Registry {
	return identity.NewRegistryWith(identity.RegistryConfig{Logger: slog.New(slog.DiscardHandler)})
}

func rotate(t testing.TB, root *identity.Identity, r identity.Rotation) *identity.Identity {
	t.Helper()
	next, err := root.Rotate(r)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func apply(t testing.TB, keys *identity.Registry, raw []byte) {
	t.Helper()
	if _, err := keys.Apply(raw); err != nil {
		t.Fatal(err)
	}
}

// speaker is an agent that signs and verifies, with a registry of its own.
type speaker struct {
	*node
	keys     *identity.Registry
	signer   *message.Signer
	verifier *message.Verifier
}

func speak(t testing.TB, id *identity.Identity, keys *identity.Registry, c tcp.Config) *speaker {
	t.Helper()
	c.Keys = keys
	s := &speaker{node: enterAs(t, id, c), keys: keys}
	var err error
	if s.signer, err = message.NewSigner(message.SignerConfig{Identity: id, Network: "test"}); err != nil {
		t.Fatal(err)
	}
	if s.verifier, err = message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: "test", Keys: keys}); err != nil {
		t.Fatal(err)
	}
	return s
}

// rotate has the speaker go on with another key, as a runtime does.
func (s *speaker) rotate(next *identity.Identity) {
	s.t.Helper()
	if err := s.Rotate(next); err != nil {
		s.t.Fatal(err)
	}
	if err := s.signer.Rotate(next); err != nil {
		s.t.Fatal(err)
	}
}

// say signs and sends n messages.
func (s *speaker) say(ctx context.Context, to *speaker, n int) error {
	for range n {
		m, err := s.signer.Sign(ctx, message.Draft{To: to.ID(), Body: []byte("{}")})
		if err != nil {
			return err
		}
		if err := s.Send(ctx, to.route(), m.Raw()); err != nil {
			return err
		}
	}
	return nil
}

// hear verifies n messages.
func (s *speaker) hear(ctx context.Context, n int) error {
	for i := range n {
		m, err := transport.ReceiveVerified(ctx, s, s.verifier, nil)
		if err != nil {
			return fmt.Errorf("message %d of %d: %w; refused %v", i, n, err, s.verifier.Refused())
		}
		_ = m
	}
	return nil
}

// TestRotationUnderLoadDropsNothing has both ends change their keys twice while they talk: no message is refused, none
// is lost, and the connection stays.
func TestRotationUnderLoadDropsNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	roots := [2]*identity.Identity{person(t, alice), person(t, bob)}
	b := speak(t, roots[1], keyring(), tcp.Config{Peers: []tcp.Peer{{ID: roots[0].ID()}}})
	a := speak(t, roots[0], keyring(), tcp.Config{Peers: []tcp.Peer{b.peer(b.address())}})
	const parts, each = 3, rotatedAmid
	errs := make(chan error, 4)
	var talking sync.WaitGroup
	for i, pair := range [2][2]*speaker{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		talking.Go(func() { errs <- to.hear(ctx, 2*parts*each) })
		talking.Go(func() {
			other := make(chan error, 1)
			go func() { other <- from.say(ctx, to, parts*each) }() // that rotations come in the middle of
			at := roots[i]
			var err error
			for part := range parts {
				err = errors.Join(err, from.say(ctx, to, each))
				if part < parts-1 {
					at = rotate(t, roots[i], identity.Rotation{Current: at.Statement()})
					from.rotate(at)
				}
			}
			errs <- errors.Join(err, <-other)
		})
	}
	talking.Wait()
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, s := range []*speaker{a, b} {
		for reason, n := range s.verifier.Refused() {
			if n > 0 {
				t.Errorf("%d refused as %s", n, reason)
			}
		}
		if stats := s.network.Stats(); stats.Opened != 1 || stats.Closed != 0 || stats.Lost != 0 {
			t.Errorf("%+v", stats)
		}
	}
	for who, keys := range map[*speaker]*identity.Registry{a: b.keys, b: a.keys} {
		if key, err := keys.Lookup(who.ID()); err != nil || key.Epoch != parts-1 {
			t.Errorf("the other end knows epoch %d, %v", key.Epoch, err)
		}
	}
}

// promptly is within a second, which package mesh proves by a clock of its own, and what a busy machine adds to it. It is
// much less than it takes to find out that a peer is silent.
const promptly = 10 * time.Second

func TestRevokedPeerIsDisconnectedWithinASecond(t *testing.T) {
	root := person(t, alice)
	bobs, alices := keyring(), keyring()
	b := speak(t, person(t, bob), bobs, tcp.Config{Peers: []tcp.Peer{{ID: root.ID()}}})
	a := speak(t, root, alices, tcp.Config{Peers: []tcp.Peer{b.peer(b.address())}, MaxBackoff: 50 * time.Millisecond})
	honest(t, a.node, b.node)
	raw, err := root.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	apply(t, bobs, raw)
	until(t, func() bool { return b.network.Stats().Connections == 0 }, func() string { return "disconnected" })
	if took := time.Since(begin); took > promptly {
		t.Errorf("disconnected after %v", took)
	}
	until(t, func() bool { return b.network.Stats().Refused[string(peertls.Revoked)] >= 3 }, func() string {
		return fmt.Sprintf("refused when it comes back: %v", b.network.Stats().Refused)
	})
	if stats := b.network.Stats(); stats.Connections != 0 || stats.Opened != 1 {
		t.Errorf("it has come back: %+v", stats)
	}
}

// TestAgentsWithoutTheirRootKeysConnect has both work with operational keys, and the registry learn of those in the
// handshake.
func TestAgentsWithoutTheirRootKeysConnect(t *testing.T) {
	a1, b1 := rotate(t, person(t, alice), identity.Rotation{}), rotate(t, person(t, bob), identity.Rotation{})
	b := speak(t, b1, keyring(), tcp.Config{Peers: []tcp.Peer{{ID: a1.ID()}}})
	a := speak(t, a1, keyring(), tcp.Config{Peers: []tcp.Peer{b.peer(b.address())}})
	honest(t, a.node, b.node)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, way := range [][2]*speaker{{a, b}, {b, a}} {
		if err := errors.Join(way[0].say(ctx, way[1], 3), way[1].hear(ctx, 3)); err != nil {
			t.Error(err)
		}
	}
}

// TestStolenKeyDoesNotConnectAfterTheRotation has the thief dial with the key that was rotated away, and with the
// statement that was once true of it.
func TestStolenKeyDoesNotConnectAfterTheRotation(t *testing.T) {
	root := person(t, alice)
	stolen := rotate(t, root, identity.Rotation{})
	next := rotate(t, root, identity.Rotation{Current: stolen.Statement(), NoOverlap: true})
	bobs := keyring()
	b := speak(t, person(t, bob), bobs, tcp.Config{Peers: []tcp.Peer{{ID: root.ID()}}})
	apply(t, bobs, next.Statement())
	for i, id := range []*identity.Identity{stolen, root} {
		thief, err := tcp.New(tcp.Config{Peers: []tcp.Peer{b.peer(b.address())}, MinBackoff: time.Hour, MaxBackoff: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := thief.Endpoint(id).Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.refused(peertls.WrongKey, uint64(i+1))
		thief.Close()
	}
	a := speak(t, next, keyring(), tcp.Config{Peers: []tcp.Peer{b.peer(b.address())}})
	honest(t, a.node, b.node)
}
