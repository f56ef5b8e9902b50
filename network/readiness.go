package network

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

// silence is for how long the host of the tasks may be silent before it counts as away: it answers the poll
// of each client after remote.MaxPark at the latest.
const silence = 3 * remote.MaxPark

// listener remembers when an agent was last heard.
type listener struct {
	id   identity.ID
	last atomic.Int64 // in nanoseconds since 1970; 0 for never
}

// hook notes what is heard. It drops nothing.
func (l *listener) hook() transport.Hook {
	return transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
		if m.Sender() == l.id {
			l.last.Store(time.Now().UnixNano())
		}
		return m, nil
	})
}

func (l *listener) hears() bool { return time.Since(time.Unix(0, l.last.Load())) < silence }

// requireHost makes readiness depend on the peer that keeps the tasks: without it, this process is of no use.
// Other peers may come and go.
func (n *Network) requireHost() {
	if n.config.Tasks.Host == "" {
		return
	}
	l := &listener{id: n.peerNamed(n.config.Tasks.Host)}
	n.hooks = append(n.hooks, l.hook())
	links, knows := n.transport.(interface{ Connected(identity.ID) bool })
	n.metrics.Require("tasks at "+n.config.Tasks.Host, func() bool {
		return l.hears() && (!knows || links.Connected(l.id))
	})
}
