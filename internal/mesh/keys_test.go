package mesh_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

const keysFrame byte = 8

func keyring() *identity.Registry {
	return identity.NewRegistryWith(identity.RegistryConfig{Logger: slog.New(slog.DiscardHandler)})
}

func rotate(t *testing.T, root *identity.Identity, r identity.Rotation) *identity.Identity {
	t.Helper()
	next, err := root.Rotate(r)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func apply(t *testing.T, keys *identity.Registry, raw []byte) {
	t.Helper()
	if _, err := keys.Apply(raw); err != nil {
		t.Fatal(err)
	}
}

func revocation(t *testing.T, root *identity.Identity) []byte {
	t.Helper()
	raw, err := root.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// knowing is a duo of which each has a registry of its own.
func knowing(t *testing.T) (s *stage, alice, bob *actor, alices, bobs *identity.Registry) {
	s, alices, bobs = newStage(t), keyring(), keyring()
	bob = s.cast("bob", mesh.Config{Keys: bobs, Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
	alice = s.cast("alice", mesh.Config{Keys: alices, Peers: []mesh.Peer{peer(t, "bob", true)}}).start()
	honest(t, alice, bob)
	return s, alice, bob, alices, bobs
}

func TestRevokedPeerIsDisconnectedAtOnceAndStaysOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob, alices, bobs := knowing(t)
		begin := time.Now()
		apply(t, bobs, revocation(t, person(t, "alice")))
		synctest.Wait()
		if bob.network.Connected(alice.id) || time.Since(begin) > time.Second {
			t.Errorf("connected after %v", time.Since(begin))
		}
		time.Sleep(time.Minute) // alice dials on
		if bob.network.Connected(alice.id) || s.attempts("bob") < 3 {
			t.Errorf("connected again, after %d attempts", s.attempts("bob"))
		}
		if bob.refused(peertls.Revoked) == 0 {
			t.Errorf("refused %v", bob.network.Stats().Refused)
		}
		// Whoever knows that the other end is revoked does not dial it.
		apply(t, alices, revocation(t, person(t, "bob")))
		time.Sleep(time.Minute)
		before := s.attempts("bob")
		time.Sleep(time.Hour)
		if after := s.attempts("bob"); after > before {
			t.Errorf("%d attempts to reach a revoked peer", after-before)
		}
	})
}

func TestConnectionSurvivesRotationsOfBothEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, alice, bob, alices, bobs := knowing(t)
		a, b := person(t, "alice"), person(t, "bob")
		var ofAlice, ofBob []byte
		for epoch := uint64(1); epoch <= 3; epoch++ {
			nextA, nextB := rotate(t, a, identity.Rotation{Current: ofAlice}), rotate(t, b, identity.Rotation{Current: ofBob})
			ofAlice, ofBob = nextA.Statement(), nextB.Statement()
			if err := alice.Rotate(nextA); err != nil {
				t.Fatal(err)
			}
			alice.mustSend(bob.route(), "signed by the new key")
			bob.expect("signed by the new key")
			if key, err := bobs.LookupEpoch(alice.id, epoch); err != nil || !key.Public.Equal(nextA.PublicKey()) {
				t.Errorf("epoch %d: the frame came before the statement: %v", epoch, err)
			}
			if err := bob.Rotate(nextB); err != nil {
				t.Fatal(err)
			}
			bob.mustSend(alice.route(), "signed by the new key")
			alice.expect("signed by the new key")
			if key, err := alices.LookupEpoch(bob.id, epoch); err != nil || !key.Public.Equal(nextB.PublicKey()) {
				t.Errorf("epoch %d: the frame came before the statement: %v", epoch, err)
			}
		}
		time.Sleep(time.Hour) // the overlaps are over
		honest(t, alice, bob)
		if stats := bob.network.Stats(); stats.Opened != 1 || stats.Closed != 0 {
			t.Errorf("%d connections opened, %d closed", stats.Opened, stats.Closed)
		}
		if err := alice.Rotate(b); err == nil {
			t.Error("took another agent's key")
		}
		if err := alice.Rotate(a); err == nil {
			t.Error("went back to the root key")
		}
	})
}

// TestStatementGoesBeforeWhatIsSignedWithTheKey rotates while frames are being written.
func TestStatementGoesBeforeWhatIsSignedWithTheKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, alice, bob, _, bobs := knowing(t)
		const frames = 2000
		go func() {
			for i := range frames {
				epoch := 0
				if i >= frames/2 {
					epoch = 1
				}
				if i == frames/2 {
					if err := alice.Rotate(rotate(t, person(t, "alice"), identity.Rotation{})); err != nil {
						t.Error(err)
					}
				}
				alice.Send(t.Context(), bob.route(), []byte(fmt.Sprint(epoch)))
			}
		}()
		for range frames {
			if bob.next() == "1" {
				if _, err := bobs.LookupEpoch(alice.id, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestConnectionMadeDuringARotationLearnsOfIt has a peer connect that saw the key before in the handshake.
func TestConnectionMadeDuringARotationLearnsOfIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, bobs := newStage(t), keyring()
		bob := s.cast("bob", mesh.Config{Keys: bobs, Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
		alice := s.cast("alice", mesh.Config{Keys: keyring(), Peers: []mesh.Peer{peer(t, "bob", true)}})
		s.delay = func() time.Duration { return 50 * time.Millisecond }
		go func() {
			time.Sleep(25 * time.Millisecond)
			alice.Rotate(rotate(t, person(t, "alice"), identity.Rotation{}))
		}()
		alice.start()
		alice.mustSend(bob.route(), "hi")
		bob.expect("hi")
		if _, err := bobs.LookupEpoch(alice.id, 1); err != nil {
			t.Error(err)
		}
	})
}

// callAs connects a puppet that has proved to have the key of id.
func (s *stage) callAs(a *actor, id *identity.Identity) *puppet {
	here, there := s.pipe()
	p := &puppet{here, s.t, make(chan struct{})}
	go func() {
		defer close(p.ended)
		a.network.Accept(mesh.Stream{Conn: there, Self: a.id, Peer: id.ID(), Key: id.PublicKey(), Statement: id.Statement()})
	}()
	s.t.Cleanup(func() { here.Close() })
	return p
}

// greet is enter, and returns the number of the link.
func (p *puppet) greet() uint64 {
	p.t.Helper()
	p.say(greeting(0, 0))
	kind, payload := p.hear()
	if kind != hello {
		p.t.Fatalf("the answer to a hello is of type %d", kind)
	}
	p.say(frame(ack, payload[9:17]))
	return binary.BigEndian.Uint64([]byte(payload[1:9]))
}

// shows is the frame by which the key of id signs that its statement is meant for a link.
func shows(statement []byte, by *identity.Identity, to identity.ID, link uint64) []byte {
	id := by.ID()
	claim := cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 3), id[:]), to[:])
	proof := cose.SignStatement(by, id[:], cose.DomainHandshake, "application/converge-link", cose.AppendUint(claim, link))
	return frame(keysFrame, string(cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), statement), proof)))
}

// TestThiefOfAnOldKeyIsDisconnectedByTheRotation has the thief of a root key, who is connected, show the statement of
// its successor, which is no secret, to keep the connection.
func TestThiefOfAnOldKeyIsDisconnectedByTheRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, bobs := newStage(t), keyring()
		bob := s.cast("bob", mesh.Config{Keys: bobs, Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
		stolen := person(t, "alice")
		next := rotate(t, stolen, identity.Rotation{NoOverlap: true})
		bold := s.callAs(bob, stolen)
		bold.say(shows(next.Statement(), stolen, bob.id, bold.greet()))
		bold.expectEnd(time.Second)
		if bob.refused(peertls.WrongKey) != 1 {
			t.Errorf("refused %v", bob.network.Stats().Refused)
		}
		thief := s.callAs(bob, stolen)
		thief.greet()
		synctest.Wait()
		apply(t, bobs, next.Statement())
		thief.expectEnd(time.Second)
		s.callAs(bob, stolen).expectEnd(time.Second)
		honest := s.callAs(bob, next)
		honest.greet()
		synctest.Wait()
		if !bob.network.Connected(stolen.ID()) {
			t.Error("alice is not let in")
		}
	})
}

func TestStatementsThatCountForNothing(t *testing.T) {
	alice, mallory := person(t, "alice"), person(t, "mallory")
	next := rotate(t, alice, identity.Rotation{})
	for name, c := range map[string]struct {
		says   func(to identity.ID, link uint64) []byte
		reason peertls.Reason
	}{
		"of another agent": {func(to identity.ID, link uint64) []byte {
			working := rotate(t, mallory, identity.Rotation{})
			return shows(working.Statement(), working, to, link)
		}, peertls.WrongKey},
		"for another link":  {func(to identity.ID, link uint64) []byte { return shows(next.Statement(), next, to, link+1) }, peertls.WrongKey},
		"for another agent": {func(_ identity.ID, link uint64) []byte { return shows(next.Statement(), next, mallory.ID(), link) }, peertls.WrongKey},
		"revoked": {func(to identity.ID, link uint64) []byte {
			return shows(revocation(t, alice), alice, to, link)
		}, peertls.Revoked},
		"garbage": {func(identity.ID, uint64) []byte { return frame(keysFrame, "garbage") }, mesh.Malformed},
		"nothing": {func(identity.ID, uint64) []byte { return frame(keysFrame, "") }, mesh.Malformed},
		"of any length": {func(identity.ID, uint64) []byte {
			return frame(keysFrame, string(make([]byte, 5000)))
		}, mesh.FrameTooLarge},
		"without end": {func(to identity.ID, link uint64) (all []byte) {
			for range 20 { // all of them genuine: a signature says nothing about whether it is repeated
				one := rotate(t, alice, identity.Rotation{NotBefore: time.Now().Add(-time.Hour), Lifetime: 1000 * time.Hour})
				all = append(all, shows(one.Statement(), one, to, link)...)
			}
			return all
		}, peertls.Revoked}, // or rather quarantined: the root key contradicts itself
		"over and over": {func(to identity.ID, link uint64) (all []byte) {
			at := alice
			for range 20 {
				at = rotate(t, alice, identity.Rotation{Current: at.Statement()})
				all = append(all, shows(at.Statement(), at, to, link)...)
			}
			return all
		}, mesh.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t)
				bob := s.cast("bob", mesh.Config{Keys: keyring(), Peers: []mesh.Peer{peer(t, "alice", false)}}).start()
				p := s.callAs(bob, alice)
				link := p.greet()
				go io.Copy(io.Discard, p)
				go p.Write(c.says(bob.id, link))
				select {
				case <-p.ended:
				case <-time.After(time.Minute):
					t.Fatal("the connection is still open")
				}
				if bob.refused(c.reason) != 1 {
					t.Errorf("refused %v", bob.network.Stats().Refused)
				}
			})
		})
	}
}
