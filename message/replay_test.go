package message_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

const (
	window = 1024 // as docs/wire.md says

	// lifetime is for how long a message can be fresh by default: the maximal age and the skew.
	lifetime = 5*time.Minute + 30*time.Second
)

// at returns Alice's message to Bob with these numbers, issued at now.
func at(now time.Time, session uint64, sequence uint64) []byte {
	return newEnvelope(now, direct(bob)).numbered(session, sequence).raw()
}

// TestWindowEdges takes every message that comes up to 1,023 behind the newest, once, and none that
// comes further behind.
func TestWindowEdges(t *testing.T) {
	const newest = 5000
	v := newVerifier(bob, newClock())
	accepts(t, v, at(noon, 1, newest), "the newest")
	for behind := uint64(1); behind < window; behind++ {
		raw := at(noon, 1, newest-behind)
		accepts(t, v, raw, fmt.Sprint(behind, " behind"))
		if behind%64 < 2 || behind > window-3 {
			refuses(t, v, raw, message.ErrReplayed, fmt.Sprint(behind, " behind, again"))
		}
	}
	for _, behind := range []uint64{window, window + 1, 2 * window, newest - 1} {
		refuses(t, v, at(noon, 1, newest-behind), message.ErrReplayed, fmt.Sprint(behind, " behind"))
	}
	refuses(t, v, at(noon, 1, newest), message.ErrReplayed, "the newest, again")
}

// TestWindowForgetsNothingAsItMoves uses numbers that share a place in the window.
func TestWindowForgetsNothingAsItMoves(t *testing.T) {
	v := newVerifier(bob, newClock())
	for _, sequence := range []uint64{1, window, window + 1, window + 2, 2*window + 1, 2*window + 2} {
		accepts(t, v, at(noon, 1, sequence), fmt.Sprint(sequence))
		refuses(t, v, at(noon, 1, sequence), message.ErrReplayed, fmt.Sprint(sequence, ", again"))
	}
	refuses(t, v, at(noon, 1, window+2), message.ErrReplayed, "still in the window")
	refuses(t, v, at(noon, 1, 1), message.ErrReplayed, "left behind")
	accepts(t, v, at(noon, 1, window+3), "never seen, just in the window")
	refuses(t, v, at(noon, 1, 2), message.ErrReplayed, "never seen, left behind")
}

// TestWindowEndsAtTheHighestSequence jumps to the last numbers that there are.
func TestWindowEndsAtTheHighestSequence(t *testing.T) {
	v := newVerifier(bob, newClock())
	highest := uint64(maxSequence)
	for _, sequence := range []uint64{1, highest - 10, highest, highest - 1} {
		accepts(t, v, at(noon, 1, sequence), fmt.Sprint(sequence))
		refuses(t, v, at(noon, 1, sequence), message.ErrReplayed, fmt.Sprint(sequence, ", again"))
	}
	refuses(t, v, at(noon, 1, 1), message.ErrReplayed, "the first")
	refuses(t, v, at(noon, 1, 2), message.ErrReplayed, "the second")
}

// TestReorderingAgainstModel delivers messages of a few sessions in random order, some more than once,
// and compares with a model that forgets nothing: what is within the window comes through exactly once.
func TestReorderingAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type key struct{ session, sequence uint64 }
		clock := newClock()
		v := newVerifier(bob, clock)
		delivered, highest := map[key]bool{}, map[uint64]uint64{}
		for range rapid.IntRange(1, 40).Draw(t, "messages") {
			session := rapid.Uint64Range(1, 3).Draw(t, "session")
			around := highest[session]
			sequence := rapid.OneOf(
				rapid.Uint64Range(max(around, 5)-4, around+5),
				rapid.Uint64Range(max(around, window+2)-window-1, around+window+1),
				rapid.Uint64Range(1, 3*window),
			).Draw(t, "sequence")
			if _, known := highest[session]; !known {
				clock.Add(time.Millisecond) // a new session is newer
			}
			_, err := v.Verify(at(clock.Now(), session, sequence))
			fresh := !delivered[key{session, sequence}] && sequence+window > highest[session]
			if (err == nil) != fresh {
				t.Fatalf("session %d, message %d with %d the highest: %v", session, sequence, highest[session], err)
			}
			if err == nil {
				delivered[key{session, sequence}] = true
				highest[session] = max(highest[session], sequence)
			}
		}
	})
}

func TestNewSessionMustBeNewer(t *testing.T) {
	clock := newClock()
	clock.Add(-time.Minute)
	v := newVerifier(bob, clock)
	clock.Set(noon)
	accepts(t, v, at(noon, 1, 1), "the first session")
	for name, issued := range map[string]time.Time{
		"older": noon.Add(-time.Second), "a millisecond older": noon.Add(-time.Millisecond), "as old": noon,
	} {
		refuses(t, v, at(issued, 2, 1), message.ErrStaleSession, name)
	}
	accepts(t, v, at(noon.Add(time.Millisecond), 2, 1), "a millisecond newer")
	accepts(t, v, at(noon, 1, 2), "the first session goes on")
	refuses(t, v, at(noon.Add(time.Millisecond), 3, 1), message.ErrStaleSession, "as old as the second")
}

// TestSessionsAreCapped starts as many sessions as a sender may have. At the cap new ones are refused
// and the old ones stay protected; when they are too old to be fresh, there is room.
func TestSessionsAreCapped(t *testing.T) {
	const limit = 16
	clock := newClock()
	v := newVerifier(bob, clock)
	for session := uint64(1); session <= limit; session++ {
		accepts(t, v, at(noon.Add(time.Duration(session)*time.Millisecond), session, 1), fmt.Sprint("session ", session))
	}
	now := noon.Add(time.Second)
	for range 3 {
		refuses(t, v, at(now, 99, 1), message.ErrTooManySessions, "one session more")
	}
	for session := uint64(1); session <= limit; session++ {
		refuses(t, v, at(noon.Add(time.Duration(session)*time.Millisecond), session, 1), message.ErrReplayed, "replay at the cap")
		accepts(t, v, at(noon.Add(time.Duration(session)*time.Millisecond), session, 2), "old sessions go on")
	}
	other := newEnvelope(now, direct(bob)).from(carol).raw()
	accepts(t, v, other, "another sender")

	clock.Set(noon.Add(time.Millisecond + lifetime))
	refuses(t, v, at(clock.Now(), 99, 1), message.ErrTooManySessions, "the oldest session can still be fresh")
	clock.Add(time.Millisecond)
	accepts(t, v, at(clock.Now(), 99, 1), "the oldest session is too old")
	refuses(t, v, at(clock.Now().Add(time.Millisecond), 100, 1), message.ErrTooManySessions, "the second oldest is not")
	clock.Add(lifetime)
	accepts(t, v, at(clock.Now(), 100, 1), "all are too old")
}

// TestSendersAreBounded fills the table of senders: it refuses new ones, forgets no live one, and has
// room again when the old ones are silent for long enough.
func TestSendersAreBounded(t *testing.T) {
	dave := agent(4)
	clock := newClock()
	v := configured(message.VerifierConfig{Keys: registryOf(alice, bob, carol, dave), MaxSenders: 2, Now: clock.Now})
	from := func(id *identity.Identity, sequence int) []byte {
		return newEnvelope(clock.Now(), direct(bob)).from(id).numbered(1, sequence).raw()
	}
	first := from(alice, 1)
	accepts(t, v, first, "Alice")
	clock.Add(time.Second)
	accepts(t, v, from(carol, 1), "Carol")
	clock.Add(time.Second)
	refuses(t, v, from(dave, 1), message.ErrTooManySessions, "Dave, one too many")
	refuses(t, v, first, message.ErrReplayed, "Alice's, again")
	accepts(t, v, from(alice, 2), "Alice goes on")

	clock.Set(noon.Add(time.Second + lifetime))
	refuses(t, v, from(dave, 1), message.ErrTooManySessions, "Carol's can still be fresh")
	clock.Add(time.Second)
	accepts(t, v, from(dave, 1), "Carol is silent")
	refuses(t, v, from(carol, 2), message.ErrTooManySessions, "Carol returns")
	clock.Add(time.Second)
	accepts(t, v, from(carol, 2), "Alice is silent")
	accepts(t, v, from(dave, 2), "Dave goes on")
}

// TestClockSetBackDeliversNothingTwice sets everybody's clock back by an hour.
func TestClockSetBackDeliversNothingTwice(t *testing.T) {
	clock := newClock()
	clock.Add(-2 * time.Hour)
	v := newVerifier(bob, clock)
	clock.Set(noon.Add(-time.Hour))
	running := newSigner(alice, clock)
	var captured [][]byte
	deliver := func(s *message.Signer, what string) {
		raw := sign(t, s, message.Draft{To: bob.ID()})
		accepts(t, v, raw, what)
		captured = append(captured, raw)
	}
	deliver(running, "an hour before noon")
	clock.Set(noon)
	deliver(running, "at noon")

	clock.Set(noon.Add(-time.Hour))
	for _, raw := range captured[:1] {
		refuses(t, v, raw, message.ErrReplayed, "it is fresh again")
	}
	refuses(t, v, captured[1], message.ErrNotYetValid, "it is of the future")
	deliver(running, "the session goes on")
	refuses(t, v, sign(t, newSigner(alice, clock), message.Draft{To: bob.ID()}), message.ErrStaleSession, "a new session has to wait")
	clock.Set(noon.Add(time.Millisecond))
	deliver(newSigner(alice, clock), "a new session, when the old time is reached")
	for _, raw := range captured {
		if _, err := v.Verify(raw); err == nil {
			t.Error("delivered twice")
		}
	}
}

// TestForgottenSessionStaysForgottenWhenTheClockIsSetBack lets a session become too old, be dropped for
// a new one, come back, and then sets the clock back to when its first messages were fresh.
func TestForgottenSessionStaysForgottenWhenTheClockIsSetBack(t *testing.T) {
	clock := newClock()
	v := newVerifier(bob, clock)
	captured := [][]byte{at(noon, 1, 1), at(noon, 1, 2), at(noon, 1, 3)}
	accepts(t, v, captured[0], "session 1")
	accepts(t, v, captured[2], "session 1, a gap")
	clock.Add(lifetime + time.Millisecond)
	accepts(t, v, at(clock.Now(), 2, 1), "session 2, for which 1 is dropped")
	clock.Add(time.Millisecond)
	accepts(t, v, at(clock.Now(), 1, 4), "session 1 is back")
	clock.Set(noon)
	for i, raw := range captured {
		refuses(t, v, raw, message.ErrReplayed, fmt.Sprint("message ", i+1, " of session 1, fresh again"))
	}
	accepts(t, v, at(noon.Add(time.Millisecond), 1, 5), "session 1 goes on after what it sent before")
}

// TestForgottenSenderStaysForgottenWhenTheClockIsSetBack is the same for a sender that was dropped.
func TestForgottenSenderStaysForgottenWhenTheClockIsSetBack(t *testing.T) {
	clock := newClock()
	v := configured(message.VerifierConfig{MaxSenders: 1, Now: clock.Now})
	captured := at(noon, 1, 1)
	accepts(t, v, captured, "Alice")
	clock.Add(lifetime + time.Millisecond)
	accepts(t, v, newEnvelope(clock.Now(), direct(bob)).from(carol).raw(), "Carol, for whom Alice is dropped")
	clock.Set(noon)
	refuses(t, v, captured, message.ErrStaleSession, "Alice's first, fresh again")
	clock.Add(2*lifetime + 2*time.Second)
	accepts(t, v, at(clock.Now(), 1, 2), "Alice is back, for whom Carol is dropped")
	clock.Set(noon)
	refuses(t, v, captured, message.ErrReplayed, "Alice's first, fresh once more")
}

// TestReplayAfterRestartOfTheReceiverIsDropped replays what one verifier accepted to the next one, also
// when that one has already seen newer messages of the same session.
func TestReplayAfterRestartOfTheReceiverIsDropped(t *testing.T) {
	clock := newClock()
	old := newVerifier(bob, clock)
	s := newSigner(alice, clock)
	var captured [][]byte
	for range 5 {
		clock.Add(time.Millisecond)
		raw := sign(t, s, message.Draft{To: bob.ID()})
		accepts(t, old, raw, "before the restart")
		captured = append(captured, raw)
	}
	clock.Add(time.Millisecond)
	restarted := newVerifier(bob, clock)
	for _, raw := range captured {
		refuses(t, restarted, raw, message.ErrStaleSession, "right after the restart")
	}
	accepts(t, restarted, sign(t, s, message.Draft{To: bob.ID()}), "the session goes on")
	for _, raw := range captured {
		refuses(t, restarted, raw, message.ErrReplayed, "after a newer message of the session")
	}
	clock.Add(time.Millisecond)
	accepts(t, restarted, sign(t, newSigner(alice, clock), message.Draft{To: bob.ID()}), "a new session")
	for _, raw := range captured {
		refuses(t, restarted, raw, message.ErrReplayed, "after a new session")
	}
}

// TestReceiverRefusesWhatIsOlderThanItself holds the edge to the millisecond.
func TestReceiverRefusesWhatIsOlderThanItself(t *testing.T) {
	clock := newClock()
	refuses(t, newVerifier(bob, clock), at(noon.Add(-time.Millisecond), 1, 1), message.ErrStaleSession, "issued a millisecond before")
	accepts(t, newVerifier(bob, clock), at(noon, 1, 1), "issued in the same millisecond")
}
