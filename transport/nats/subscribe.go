package nats

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// MaxGroups bounds the groups of one agent.
const MaxGroups = 63

// group is a membership: each frame that the pattern matches reaches one member.
type group struct {
	name    string
	pattern message.Pattern
}

// key names the group at the broker: its members agree on name and pattern.
func (g group) key() string {
	sum := sha256.Sum256([]byte(g.name + "\n" + g.pattern.String()))
	return g.name + "-" + hex.EncodeToString(sum[:8])
}

// takes reports whether the copy of a frame that was published under the namespace is the one that counts
// for the group: all members have to come to the same answer, whatever they have seen.
func (g group) takes(topics []message.Topic, namespace string) bool {
	i := slices.IndexFunc(topics, g.pattern.Matches)
	return i >= 0 && topics[i].Namespace() == namespace
}

func checkGroup(name string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	if name == "" || len(name) > 64 || strings.Trim(name, allowed) != "" {
		return fmt.Errorf("group %.80q: use 1 to 64 letters, digits, '_' and '-'", name)
	}
	return nil
}

// Subscribe implements [transport.Transport]. It returns when the server that the agent is connected to
// knows of it; the others of a cluster learn of it from that one. While the broker is away, it returns
// without that (in the core mode), and the subscription holds from when the broker is back.
func (e *Endpoint) Subscribe(ctx context.Context, p message.Pattern) error {
	return e.change(ctx, func() (undo func(), err error) {
		old := *e.patterns.Load()
		if slices.ContainsFunc(old, samePattern(p)) {
			return nil, nil
		}
		if len(old) >= message.MaxSubscriptions {
			return nil, fmt.Errorf("subscribe to %q: the agent has %d subscriptions, which is the limit", p, len(old))
		}
		now := append(slices.Clone(old), p)
		e.patterns.Store(&now)
		return func() { e.patterns.Store(&old) }, nil
	})
}

// Unsubscribe implements [transport.Transport].
func (e *Endpoint) Unsubscribe(ctx context.Context, p message.Pattern) error {
	return e.change(ctx, func() (undo func(), err error) {
		old := *e.patterns.Load()
		now := slices.DeleteFunc(slices.Clone(old), samePattern(p))
		if len(now) == len(old) {
			return nil, nil
		}
		e.patterns.Store(&now)
		return func() {}, nil // it is ended, whether the broker knows that or not
	})
}

// SubscribeGroup asks for a share of the topics that p matches: of all agents that ask with the same
// pattern and the same name of a group, one gets each frame, besides those that have subscribed for
// themselves. A frame is not for the group if its sender is the only member. At most [MaxGroups] groups.
func (e *Endpoint) SubscribeGroup(ctx context.Context, p message.Pattern, name string) error {
	if err := checkGroup(name); err != nil {
		return err
	}
	return e.change(ctx, func() (undo func(), err error) {
		old := *e.groups.Load()
		if slices.ContainsFunc(old, sameGroup(p, name)) {
			return nil, nil
		}
		if len(old) >= MaxGroups {
			return nil, fmt.Errorf("join group %s: the agent is in %d groups, which is the limit", name, len(old))
		}
		now := append(slices.Clone(old), group{name, p})
		e.groups.Store(&now)
		return func() { e.groups.Store(&old) }, nil
	})
}

// UnsubscribeGroup undoes [Endpoint.SubscribeGroup]. Ending none is fine.
func (e *Endpoint) UnsubscribeGroup(ctx context.Context, p message.Pattern, name string) error {
	return e.change(ctx, func() (undo func(), err error) {
		old := *e.groups.Load()
		now := slices.DeleteFunc(slices.Clone(old), sameGroup(p, name))
		if len(now) == len(old) {
			return nil, nil
		}
		e.groups.Store(&now)
		return func() {}, nil
	})
}

// change changes patterns or groups, and has the carrier act on it. A nil undo says that nothing changed.
func (e *Endpoint) change(ctx context.Context, change func() (undo func(), err error)) error {
	select {
	case e.subscribing <- struct{}{}:
		defer func() { <-e.subscribing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.closed:
		return transport.ErrClosed
	}
	if e.state.Load() == stateClosed {
		return transport.ErrClosed
	}
	undo, err := change()
	if err != nil || undo == nil || e.state.Load() != stateStarted {
		return err
	}
	ctx, cancel := e.untilClosed(ctx)
	defer cancel()
	if err := e.carrier.subscribe(ctx); err != nil {
		undo()
		return err
	}
	return nil
}

func samePattern(p message.Pattern) func(message.Pattern) bool {
	return func(q message.Pattern) bool { return q.String() == p.String() }
}

func sameGroup(p message.Pattern, name string) func(group) bool {
	return func(g group) bool { return g.name == name && samePattern(p)(g.pattern) }
}
