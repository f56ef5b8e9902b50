package message_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Alice's operational keys, which have her ID, and what her root key has said about them.
var (
	aliceOne, aliceTwo = agent(11), agent(12)

	// aliceRotated is her first statement: epoch 1 since noon, the root key counts for ten more minutes.
	aliceRotated = aliceSays(func(*identity.KeyStatement) {})
	// aliceAgain is her second one.
	aliceAgain = aliceSays(func(s *identity.KeyStatement) {
		s.Epoch, s.Sequence, s.Operational, s.Previous = 2, 2, aliceTwo.PublicKey(), aliceOne.PublicKey()
	})
)

func aliceSays(change func(*identity.KeyStatement)) []byte {
	s := identity.KeyStatement{
		ID: alice.ID(), Root: alice.PublicKey(), Epoch: 1, Operational: aliceOne.PublicKey(),
		NotBefore: noon, Expires: noon.Add(90 * 24 * time.Hour), Sequence: 1,
		Previous: alice.PublicKey(), Overlap: 10 * time.Minute,
	}
	change(&s)
	return must(identity.SignKeys(alice, s))
}

func keyOfEpoch(epoch uint64) ed25519.PublicKey {
	return []*identity.Identity{alice, aliceOne, aliceTwo}[epoch].PublicKey()
}

// inEpoch has the envelope signed by Alice's key of that epoch.
func inEpoch(epoch uint64) func(*envelope) {
	return func(e *envelope) {
		e.signer = []*identity.Identity{alice, aliceOne, aliceTwo}[epoch]
		if epoch > 0 {
			e.claims[claimEpoch] = epoch
		}
	}
}

// statements are those that the receiver knows.
func statements(all ...[]byte) func(*vector) {
	return func(v *vector) {
		for _, raw := range all {
			v.Statements = append(v.Statements, hex.EncodeToString(raw))
		}
	}
}

func acceptedEpochs() []vector {
	one, two := edited(direct(bob), inEpoch(1)).raw(), edited(direct(bob), inEpoch(2)).raw()
	return []vector{
		newVector("key epoch 1", one, statements(aliceRotated)),
		newVector("key epoch 2", two, statements(aliceRotated, aliceAgain)),
		newVector("key epoch 2, of which the receiver knows the last statement only", two, statements(aliceAgain)),
		newVector("key epoch 0, during the overlap", edited(direct(bob)).raw(), statements(aliceRotated)),
		newVector("key epoch 0, after two rotations within the overlap", edited(direct(bob)).raw(), statements(aliceRotated, aliceAgain)),
		newVector("key epoch 1, at the end of the overlap", edited(direct(bob), inEpoch(1), issuedAt(noon.Add(599*time.Second))).raw(), statements(aliceAgain), later(10*time.Minute-time.Millisecond)),
		newVector("key that is in force in 30 s", one, statements(aliceSays(func(s *identity.KeyStatement) { s.NotBefore = noon.Add(30 * time.Second) }))),
	}
}

// issuedAt has the envelope issued at another time than noon.
func issuedAt(when time.Time) func(*envelope) {
	return func(e *envelope) {
		e.claims[claimExp], e.claims[claimIat], e.claims[claimIssuedMillis] = when.Add(time.Minute).Unix(), when.Unix(), when.UnixMilli()
	}
}

func revokedVectors() []vector {
	revoked := aliceSays(func(s *identity.KeyStatement) { s.Revoked = true })
	return []vector{
		newVector("revoked", edited(direct(bob), inEpoch(1)).raw(), statements(aliceRotated, revoked)),
		newVector("revoked, by a statement of a lower sequence", edited(direct(bob), inEpoch(2)).raw(), statements(aliceAgain, revoked)),
		newVector("revoked, in epoch 0", edited(direct(bob)).raw(), statements(revoked)),
	}
}

func quarantinedVectors() []vector {
	other := aliceSays(func(s *identity.KeyStatement) { s.Expires = s.Expires.Add(time.Hour) })
	otherKey := aliceSays(func(s *identity.KeyStatement) { s.Sequence, s.Operational = 2, aliceTwo.PublicKey() })
	return []vector{
		newVector("two statements of one sequence", edited(direct(bob), inEpoch(1)).raw(), statements(aliceRotated, other)),
		newVector("two keys of one epoch", edited(direct(bob), inEpoch(1)).raw(), statements(aliceRotated, otherKey)),
	}
}

func unknownEpochs() []vector {
	stolen := aliceSays(func(s *identity.KeyStatement) { s.Previous, s.Overlap = nil, 0 })
	return []vector{
		newVector("epoch of which there is no statement", edited(direct(bob), inEpoch(1)).raw()),
		newVector("epoch that the last statement does not know", edited(direct(bob), inEpoch(2)).raw(), statements(aliceRotated)),
		newVector("epoch before the last but one", edited(direct(bob)).raw(), statements(aliceAgain)),
		newVector("epoch 0, after the overlap", edited(direct(bob), issuedAt(noon.Add(599*time.Second))).raw(), statements(aliceRotated), later(10*time.Minute)),
		newVector("epoch 0, after a rotation without overlap", edited(direct(bob)).raw(), statements(stolen)),
	}
}

func keysNotInForce() []vector {
	return []vector{
		newVector("key that has expired", edited(direct(bob), inEpoch(1)).raw(), statements(aliceSays(func(s *identity.KeyStatement) {
			s.NotBefore, s.Expires = noon.Add(-time.Hour), noon
		}))),
		newVector("key that is in force in 30 s and a millisecond", edited(direct(bob), inEpoch(1)).raw(), statements(aliceSays(func(s *identity.KeyStatement) {
			s.NotBefore = noon.Add(30*time.Second + time.Millisecond)
		}))),
	}
}
