package pool

import (
	"context"
	"fmt"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
)

// Allowed reports why an agent may not publish on these topics. Topics that start with "pool." belong to
// pools: there, only members may publish, and only on the topics that the pool has; versions and attributes
// are theirs to choose. Other topics are nobody's. The error wraps [ErrNotMember].
func (m *Manager) Allowed(sender identity.ID, topics []message.Topic) error {
	for _, t := range topics {
		namespace := t.Namespace()
		if inSpace(namespace) && !m.mayPublish(sender, namespace) {
			return fmt.Errorf("topic %q: %w, or the pool has no such topic", t, ErrNotMember)
		}
	}
	return nil
}

func (m *Manager) mayPublish(sender identity.ID, namespace string) bool {
	name, topic, ok := splitTopic(namespace)
	return ok && m.IsMember(name, sender) && slices.Contains(m.topicsOf(name), topic)
}

// Gate lets nobody but members publish on the topics of pools: it is a transport.Hook that refuses what its
// agent would send and may not, and drops, which is counted, what others have sent and may not. Who listens is
// not its business: what is said on a pool's topic is signed, but not secret.
//
// A Gate without manager knows of no members: a missing policy denies.
type Gate struct {
	manager *Manager
	self    identity.ID
	dropped stat.Counter
}

// NewGate returns the gate of the agent that is called self.
func NewGate(m *Manager, self identity.ID) *Gate { return &Gate{manager: m, self: self} }

// Dropped returns how many messages of others were dropped.
func (g *Gate) Dropped() uint64 { return g.dropped.Load() }

// Allowed is [Manager.Allowed].
func (g *Gate) Allowed(sender identity.ID, topics []message.Topic) error {
	if g.manager != nil {
		return g.manager.Allowed(sender, topics)
	}
	for _, t := range topics {
		if inSpace(t.Namespace()) {
			return fmt.Errorf("topic %q: %w", t, ErrNotMember)
		}
	}
	return nil
}

// PreSend implements transport.Hook. Its error wraps [ErrNotMember].
func (g *Gate) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) {
	if err := g.Allowed(g.self, d.Topics); err != nil {
		return nil, err
	}
	return &d, nil
}

// PostReceive implements transport.Hook.
func (g *Gate) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	if g.Allowed(m.Sender(), m.Topics()) != nil {
		g.dropped.Inc()
		return nil, nil
	}
	return m, nil
}
