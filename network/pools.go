package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/transport/nats"
)

// addPools makes the manager of the pools, if the configuration has some.
func (n *Network) addPools() (err error) {
	if len(n.config.Pools) == 0 {
		return nil
	}
	n.pools, err = pool.New(pool.Config{Store: n.store, Network: n.config.Network, Keys: n.registry, Logger: n.log})
	if err != nil {
		return err
	}
	n.detachPools = n.pools.Attach(func(pool.Change) {}) // from now on it answers from memory
	n.metrics.Require("pools", func() bool { return n.pools.Healthy() == nil })
	return nil
}

// isMember reports whether an agent is a member of a pool; without pools there are none.
func (n *Network) isMember(name string, agent identity.ID) bool {
	return n.pools != nil && n.pools.IsMember(name, agent)
}

// poolsOf returns the pools that an agent is a member of.
func (n *Network) poolsOf(agent identity.ID) []string {
	if n.pools == nil {
		return nil
	}
	return n.pools.Pools(agent)
}

// createPools makes the pools whose owners are here, unless they exist.
func (n *Network) createPools(ctx context.Context) error {
	for i, p := range n.config.Pools {
		if p.Owner == "" {
			continue
		}
		if err := n.createPool(ctx, p); err != nil {
			return fmt.Errorf("pools[%d] (%q): %w", i, p.Name, err)
		}
	}
	return nil
}

func (n *Network) createPool(ctx context.Context, p config.Pool) error {
	owner := n.memberNamed(p.Owner)
	spec := pool.Spec{Name: p.Name, Topics: p.Topics, MaxMembers: p.MaxMembers}
	switch p.Admission {
	case config.AdmissionOpen:
		spec.Admission = pool.Open
	case config.AdmissionToken:
		token, err := tokenOf(p)
		if err != nil {
			return err
		}
		spec.Admission, spec.Token = pool.ByToken, token
	default:
		spec.Admission = pool.Allowlist
		for _, name := range p.Members {
			id := n.peerNamed(name)
			if m := n.memberNamed(name); m != nil {
				id = m.id
			}
			spec.Allowlist = append(spec.Allowlist, id)
		}
	}
	_, err := n.pools.Create(ctx, owner.identity, spec)
	if errors.Is(err, pool.ErrExists) {
		return n.updatePool(ctx, owner, spec)
	}
	return err
}

// updatePool has a pool of an earlier run follow the configuration.
func (n *Network) updatePool(ctx context.Context, owner *member, spec pool.Spec) error {
	_, err := n.pools.Edit(ctx, owner.identity, spec.Name, func(s *pool.Spec) error {
		*s = spec
		return nil
	})
	if errors.Is(err, pool.ErrNotOwner) {
		return advice.On(err, "another agent has made a pool of that name: leave owner out to join it, or choose another name")
	}
	return err
}

func tokenOf(p config.Pool) (pool.Token, error) {
	if p.Token == (config.Secret{}) {
		return nil, nil
	}
	secret, err := nats.Secret(p.Token).Read()
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return pool.Token(secret), nil
}

// Pauses between attempts to join a pool that is not there yet.
const (
	minJoinRetry = 100 * time.Millisecond
	maxJoinRetry = 5 * time.Second
)

// joinPools has an agent join its pools.
func (n *Network) joinPools(ctx context.Context, m *member) error {
	for _, name := range m.pools {
		if err := n.joinPool(ctx, m, name); err != nil && ctx.Err() == nil {
			return fmt.Errorf("agent %q: join pool %q: %w", m.name, name, err)
		} else if err != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// joinPool has an agent join a pool. One that nobody has made yet, it waits for.
func (n *Network) joinPool(ctx context.Context, m *member, name string) error {
	token, err := tokenOf(n.poolNamed(name))
	if err != nil {
		return err
	}
	for retry := minJoinRetry; ; retry = min(2*retry, maxJoinRetry) {
		_, err := n.pools.Join(ctx, m.identity, name, token)
		if !errors.Is(err, pool.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		if retry == minJoinRetry {
			n.log.Info("waiting for a pool to be made", "agent", m.name, "pool", name)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
}

func (n *Network) poolNamed(name string) config.Pool {
	for _, p := range n.config.Pools {
		if p.Name == name {
			return p
		}
	}
	return config.Pool{}
}

// memberNamed returns the agent of this process that has the name, nil if none has.
func (n *Network) memberNamed(name string) *member {
	for i := range n.members {
		if n.members[i].name == name {
			return &n.members[i]
		}
	}
	return nil
}
