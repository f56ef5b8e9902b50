//go:build soak

package message_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/message"
)

// TestHundredThousandCapturedMessages sends 100,000 captured messages again: to the same receiver, to
// another one, and to the next after a crash, and after a graceful stop.
func TestHundredThousandCapturedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		s := newStore(t)
		first := starts(t, s)
		sessions := []*message.Signer{sessionOf(alice, 0), sessionOf(alice, 0), sessionOf(carol, 0), sessionOf(carol, 20*time.Second)}
		captured := make([][]byte, n)
		for i := range captured {
			if i%10 == 0 || i < len(sessions) { // a new session is newer
				time.Sleep(time.Millisecond)
			}
			captured[i] = toBob(t, sessions[i%len(sessions)])
			accepts(t, first.Verifier, captured[i], "the first time")
		}
		t.Logf("%d messages in %d s by the clock: %+v", n, n/10/1000, first.marks.Stats())
		other := startsWith(t, newStore(t), message.MarksConfig{Agent: carol.ID()})
		for what, l := range map[string]*life{"same": first, "other": other, "after a crash": starts(t, copyOf(t, s))} {
			delivered := 0
			for _, raw := range captured {
				if _, err := l.Verify(bytes.Clone(raw)); err == nil {
					delivered++
				}
			}
			t.Logf("%s: %d of %d delivered again; %v", what, delivered, n, l.Refused())
			if delivered > 0 {
				t.Errorf("%s: %d messages are delivered again", what, delivered)
			}
		}
		first.stop(t)
		refusesAll(t, starts(t, s).Verifier, captured, "after a graceful stop")
	})
}
