package network_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/network"
)

// lockAway has every agent work with an operational key. Peers still know the ID, and the root key at most.
func (m *machines) lockAway() {
	m.t.Helper()
	for name, root := range m.ids {
		working, err := root.Rotate(identity.Rotation{})
		check(m.t, err)
		check(m.t, os.Remove(m.key(name)))
		check(m.t, identity.WriteKeyFile(m.key(name), working, nil))
	}
}

// TestJobAcrossMachinesWhoseRootKeysAreElsewhere is a job of agents that have no root key.
func TestJobAcrossMachinesWhoseRootKeysAreElsewhere(t *testing.T) {
	for _, name := range []string{"tcp", "websocket by challenge"} {
		t.Run(name, func(t *testing.T) {
			m := newMachines(t, "host", "coordinator", "east")
			m.lockAway()
			dir := t.TempDir()
			write(t, dir, "a", "b", "c")
			w := wirings[name]
			log, text := newLog()
			first := run(t, m.first(dir, w.first, "east"), network.Options{Logger: log})
			transport, peers := w.other(first.address())
			run(t, m.other("east", dir, transport, peers), network.Options{Logger: log})
			first.done()
			r := first.end()
			if r.Tasks.Completed != 3 || len(r.Messages.Rejected) != 0 {
				t.Errorf("report %+v", r)
			}
			if strings.Contains(text.String(), "level=ERROR") {
				t.Errorf("errors in a normal run:\n%s", text)
			}
			for _, reason := range []message.Reason{message.ErrUnknownEpoch, message.ErrUnknownSender} {
				if n := r.Messages.Rejected[reason.String()]; n > 0 {
					t.Error(fmt.Sprint(n, " messages refused as ", reason))
				}
			}
		})
	}
}
