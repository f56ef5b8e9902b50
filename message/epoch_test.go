package message_test

import (
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// lives returns a registry that follows the clock and knows Alice, and a verifier of Bob's on it.
func lives(c *clock) (*identity.Registry, *message.Verifier) {
	keys := identity.NewRegistryWith(identity.RegistryConfig{Now: c.Now})
	if err := keys.Register(alice.ID(), alice.PublicKey()); err != nil {
		panic(err)
	}
	return keys, configured(message.VerifierConfig{Keys: keys, Now: c.Now})
}

func apply(t testing.TB, keys *identity.Registry, raw []byte) {
	t.Helper()
	if changed, err := keys.Apply(raw); err != nil || !changed {
		t.Fatalf("apply: %v, %v", changed, err)
	}
}

// working returns Alice's identity of an epoch.
func working(key *identity.Identity, statement []byte) *identity.Identity {
	return must(key.WithStatement(statement))
}

func TestRotatedSignerGoesOnInItsSession(t *testing.T) {
	c := newClock()
	keys, v := lives(c)
	s := newSigner(alice, c)
	before := accepts(t, v, sign(t, s, message.Draft{To: bob.ID()}), "epoch 0")
	apply(t, keys, aliceRotated)
	underWay := sign(t, s, message.Draft{To: bob.ID()})
	if err := s.Rotate(working(aliceOne, aliceRotated)); err != nil {
		t.Fatal(err)
	}
	after := accepts(t, v, sign(t, s, message.Draft{To: bob.ID()}), "epoch 1")
	if before.Epoch() != 0 || after.Epoch() != 1 || after.Session() != before.Session() || after.Sequence() != before.Sequence()+2 {
		t.Errorf("epochs %d and %d, sequences %d and %d", before.Epoch(), after.Epoch(), before.Sequence(), after.Sequence())
	}
	if after.Sender() != alice.ID() || s.ID() != alice.ID() || s.Identity().Epoch() != 1 {
		t.Errorf("the sender is %s, the signer %v", after.Sender(), s.Identity())
	}
	accepts(t, v, underWay, "what was under way")
	refuses(t, v, before.Raw(), message.ErrReplayed, "what was accepted in epoch 0")
	signed, errs := s.SignAll(t.Context(), draftsToBob(3))
	if errs != nil {
		t.Fatal(errs)
	}
	for _, m := range signed {
		if accepts(t, v, m.Raw(), "a batch of epoch 1").Epoch() != 1 {
			t.Error("of another epoch")
		}
	}
}

func TestSignerTakesNoKeyOfAnotherAgentOrAnEarlierEpoch(t *testing.T) {
	s := newSigner(working(aliceTwo, aliceAgain), newClock())
	for name, id := range map[string]*identity.Identity{
		"another agent": bob, "root": alice, "earlier": working(aliceOne, aliceRotated),
	} {
		if err := s.Rotate(id); err == nil {
			t.Errorf("%s: rotated", name)
		}
	}
	if s.Identity().Epoch() != 2 {
		t.Errorf("epoch %d", s.Identity().Epoch())
	}
}

// TestRotationUnderLoadLosesNothing signs from many goroutines, alone and in batches, while keys change.
func TestRotationUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	c := newClock()
	keys, v := lives(c)
	s := newSigner(alice, c)
	var signing sync.WaitGroup
	frames := make(chan []byte, 4*150)
	for range 4 {
		signing.Go(func() {
			for range 50 {
				frames <- sign(t, s, message.Draft{To: bob.ID()})
				signed, _ := s.SignAll(t.Context(), draftsToBob(2))
				frames <- signed[0].Raw()
				frames <- signed[1].Raw()
			}
		})
	}
	next := must(alice.Rotate(identity.Rotation{NotBefore: noon}))
	apply(t, keys, next.Statement())
	if err := s.Rotate(next); err != nil {
		t.Fatal(err)
	}
	signing.Wait()
	close(frames)
	for raw := range frames {
		accepts(t, v, raw, "signed while keys changed")
	}
}

// TestStolenOperationalKeyIsUselessAfterTheOverlap has a thief sign with the key of epoch 0 and 1.
func TestStolenOperationalKeyIsUselessAfterTheOverlap(t *testing.T) {
	c := newClock()
	keys, v := lives(c)
	apply(t, keys, aliceAgain)
	thief := newSigner(working(aliceOne, aliceRotated), c)
	accepts(t, v, sign(t, thief, message.Draft{To: bob.ID()}), "during the overlap")
	c.Add(10 * time.Minute)
	refuses(t, v, sign(t, thief, message.Draft{To: bob.ID()}), message.ErrUnknownEpoch, "after it")
	claimed := edited(direct(bob), inEpoch(1), issuedAt(c.Now()), claim(claimEpoch, 2))
	refuses(t, v, claimed.raw(), message.ErrBadSignature, "as if of epoch 2")
	accepts(t, v, sign(t, newSigner(working(aliceTwo, aliceAgain), c), message.Draft{To: bob.ID()}), "Alice")
}

// TestReplayInAnotherEpochIsDropped has a number of a session come again, signed by another key of the agent.
func TestReplayInAnotherEpochIsDropped(t *testing.T) {
	c := newClock()
	keys, v := lives(c)
	apply(t, keys, aliceRotated)
	accepts(t, v, edited(direct(bob)).raw(), "in epoch 0")
	refuses(t, v, edited(direct(bob), inEpoch(1)).raw(), message.ErrReplayed, "in epoch 1")
}

func TestRevokedSenderIsDroppedAtOnce(t *testing.T) {
	c := newClock()
	keys, v := lives(c)
	s := newSigner(alice, c)
	signed, _ := s.SignAll(t.Context(), draftsToBob(3))
	accepts(t, v, signed[0].Raw(), "before, and its root is known now")
	apply(t, keys, must(alice.Revoke(nil)))
	refuses(t, v, signed[1].Raw(), message.ErrRevoked, "of the same batch")
	refuses(t, v, sign(t, s, message.Draft{To: bob.ID()}), message.ErrRevoked, "by itself")
	keys.Unregister(alice.ID())
	if err := keys.Register(alice.ID(), alice.PublicKey()); err != nil {
		t.Fatal(err)
	}
	refuses(t, v, signed[2].Raw(), message.ErrRevoked, "once she has come back")
}

// TestKnownRootDiesWithItsEpoch is about the cache of roots: it saves work and decides nothing.
func TestKnownRootDiesWithItsEpoch(t *testing.T) {
	c := newClock()
	keys, v := lives(c)
	signed, _ := newSigner(alice, c).SignAll(t.Context(), draftsToBob(2))
	accepts(t, v, signed[0].Raw(), "in epoch 0")
	apply(t, keys, must(alice.Rotate(identity.Rotation{NotBefore: noon, NoOverlap: true})).Statement())
	refuses(t, v, signed[1].Raw(), message.ErrUnknownEpoch, "after an emergency")
}

func TestEverySingleBitFlipInAnEpochIsRefused(t *testing.T) {
	t.Parallel()
	c := newClock()
	keys, v := lives(c)
	apply(t, keys, aliceAgain)
	raw := sign(t, newSigner(working(aliceTwo, aliceAgain), c), message.Draft{To: bob.ID(), Body: []byte("{}")})
	flipEveryBit(t, v, raw)
	accepts(t, v, raw, "the unharmed envelope")
}

func BenchmarkVerifyRotatedBatch(b *testing.B) {
	c := newClock()
	keys, _ := lives(c)
	apply(b, keys, aliceRotated)
	s := newSigner(working(aliceOne, aliceRotated), c)
	var frames [][]byte
	for range 16 {
		signed, _ := s.SignAll(b.Context(), draftsToBob(256))
		for _, m := range signed {
			frames = append(frames, m.Raw())
		}
	}
	var v *message.Verifier
	next := len(frames)
	b.ReportAllocs()
	for b.Loop() {
		if next == len(frames) {
			v, next = configured(message.VerifierConfig{Keys: keys, Now: c.Now}), 0
		}
		if _, err := v.Verify(frames[next]); err != nil {
			b.Fatal(err)
		}
		next++
	}
}
