package converge_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/transport"
)

// TestRestartedAgentWithMarksTakesWhatItMissedAndNothingTwice runs one agent twice on the same store.
func TestRestartedAgentWithMarksTakesWhatItMissedAndNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		marks := must(memory.New(memory.Config{}))
		t.Cleanup(func() { marks.Close() })
		first, second := &script{}, &script{}
		c := w.config(first)
		c.Marks = marks
		bob := w.peer()
		a := w.run(c)
		synctest.Wait()
		seen := bob.say(c.Identity.ID(), "seen").Raw()
		synctest.Wait()
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // of the bubble
		missed := w.captureFor(c.Identity.ID(), func() { bob.say(c.Identity.ID(), "missed") })
		time.Sleep(time.Second)

		c.Agent, c.Transport = second, w.network.Endpoint(c.Identity.ID())
		again := w.run(c)
		synctest.Wait()
		for _, raw := range [][]byte{seen, missed, missed} {
			if err := bob.raw.Send(t.Context(), transport.Route{To: c.Identity.ID()}, raw); err != nil {
				t.Fatal(err)
			}
		}
		bob.say(c.Identity.ID(), "new")
		synctest.Wait()
		expectBodies(t, first, "seen")
		expectBodies(t, second, "missed", "new")
		if refused := again.Stats().Refused[message.ErrReplayed.String()]; refused != 2 {
			t.Errorf("%d replays were refused", refused)
		}
	})
}

// captureFor returns what arrives for an agent that does not run, as a broker would keep it.
func (w *world) captureFor(id identity.ID, send func()) []byte {
	w.t.Helper()
	endpoint := w.network.Endpoint(id)
	if err := endpoint.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	defer endpoint.Close()
	send()
	frame, err := endpoint.Receive(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return frame.Data
}
