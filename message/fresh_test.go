package message_test

import (
	"testing"
	"time"

	"github.com/converge-agents/converge/message"
)

// TestFreshnessEdges offers Alice's message of noon at moments around the edges of its life, with the
// default skew of 30 s and maximal age of 5 min.
func TestFreshnessEdges(t *testing.T) {
	const (
		ok = message.Reason(0)
		ns = time.Nanosecond
		ms = time.Millisecond
	)
	for _, c := range []struct {
		name   string
		config message.VerifierConfig
		ttl    time.Duration // of the message
		after  time.Duration // after noon
		reason message.Reason
	}{
		{"at once", message.VerifierConfig{}, time.Minute, 0, ok},
		{"from the future, at the skew", message.VerifierConfig{}, time.Minute, -30 * time.Second, ok},
		{"from the future, a nanosecond over it", message.VerifierConfig{}, time.Minute, -30*time.Second - ns, message.ErrNotYetValid},
		{"from the future, a millisecond over it", message.VerifierConfig{}, time.Minute, -30*time.Second - ms, message.ErrNotYetValid},
		{"from the far future", message.VerifierConfig{}, time.Minute, -30 * time.Minute, message.ErrNotYetValid},
		{"at its expiry", message.VerifierConfig{}, time.Minute, time.Minute, ok},
		{"expired, within the skew", message.VerifierConfig{}, time.Minute, 90*time.Second - ms, ok},
		{"expired, at the skew", message.VerifierConfig{}, time.Minute, 90 * time.Second, ok},
		{"expired, a nanosecond over it", message.VerifierConfig{}, time.Minute, 90*time.Second + ns, message.ErrExpired},
		{"expired, a millisecond over it", message.VerifierConfig{}, time.Minute, 90*time.Second + ms, message.ErrExpired},
		{"expired long ago", message.VerifierConfig{}, time.Minute, 30 * time.Minute, message.ErrExpired},
		{"expired before it was issued", message.VerifierConfig{}, -time.Minute, 0, message.ErrExpired},
		{"expired as it was issued", message.VerifierConfig{}, 0, 30 * time.Second, ok},
		{"MaxAge caps an hour", message.VerifierConfig{}, time.Hour, 5*time.Minute + 30*time.Second, ok},
		{"MaxAge caps an hour, a nanosecond over", message.VerifierConfig{}, time.Hour, 5*time.Minute + 30*time.Second + ns, message.ErrExpired},
		{"MaxAge caps an hour, a millisecond over", message.VerifierConfig{}, time.Hour, 5*time.Minute + 30*time.Second + ms, message.ErrExpired},
		{"MaxAge caps a century", message.VerifierConfig{}, 100 * 365 * 24 * time.Hour, 6 * time.Minute, message.ErrExpired},
		{"own skew, future", message.VerifierConfig{Skew: ms}, time.Minute, -ms, ok},
		{"own skew, future, over", message.VerifierConfig{Skew: ms}, time.Minute, -2 * ms, message.ErrNotYetValid},
		{"own skew, past", message.VerifierConfig{Skew: ms}, time.Minute, time.Minute + ms, ok},
		{"own skew, past, over", message.VerifierConfig{Skew: ms}, time.Minute, time.Minute + 2*ms, message.ErrExpired},
		{"own MaxAge", message.VerifierConfig{MaxAge: time.Second}, time.Minute, 31 * time.Second, ok},
		{"own MaxAge, over", message.VerifierConfig{MaxAge: time.Second}, time.Minute, 31*time.Second + ms, message.ErrExpired},
		{"own MaxAge over the TTL", message.VerifierConfig{MaxAge: time.Hour}, time.Minute, 90*time.Second + ms, message.ErrExpired},
	} {
		clock := newClock()
		clock.Add(-2 * time.Hour) // or it would be older than the verifier
		c.config.Now = clock.Now
		v := configured(c.config)
		clock.Set(noon.Add(c.after))
		e := newEnvelope(noon, direct(bob))
		e.claims[claimExp] = noon.Add(c.ttl).Unix()
		if c.reason == ok {
			accepts(t, v, e.raw(), c.name)
		} else {
			refuses(t, v, e.raw(), c.reason, c.name)
		}
	}
}

// TestIssueTimeCountsInMilliseconds holds the check to the milliseconds, not to iat, which has seconds.
func TestIssueTimeCountsInMilliseconds(t *testing.T) {
	clock := newClock()
	v := newVerifier(bob, clock)
	issued := noon.Add(30*time.Second + 999*time.Millisecond)
	refuses(t, v, newEnvelope(issued, direct(bob)).raw(), message.ErrNotYetValid, "999 ms too early")
	clock.Add(998 * time.Millisecond)
	refuses(t, v, newEnvelope(issued, direct(bob)).raw(), message.ErrNotYetValid, "1 ms too early")
	clock.Add(time.Millisecond)
	accepts(t, v, newEnvelope(issued, direct(bob)).raw(), "in time")
}

// TestSignedMessageLivesForItsTTL takes the times from a Signer, whose expiry is rounded up to a second.
func TestSignedMessageLivesForItsTTL(t *testing.T) {
	clock := newClock()
	clock.Add(1 * time.Millisecond)
	s := newSigner(alice, clock)
	v := newVerifier(bob, clock)
	issued := clock.Now()
	raw := sign(t, s, message.Draft{To: bob.ID(), TTL: 1})
	clock.Set(issued.Add(time.Second + 30*time.Second))
	refuses(t, v, raw, message.ErrExpired, "a second and the skew later")
	clock.Set(noon.Add(time.Second + 30*time.Second))
	accepts(t, v, raw, "at the end of the second, plus the skew")
}
