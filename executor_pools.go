package converge

import (
	"context"
	"fmt"
	"slices"

	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

// Pools is what an agent can do about pools. The errors are those of package pool.
type Pools interface {
	Create(ctx context.Context, s pool.Spec) error
	Join(ctx context.Context, name string, token pool.Token) error
	Leave(ctx context.Context, name string) error
	// Names returns the pools that the agent is a member of now, in a slice that is not changed any more. It
	// is called for each claim.
	Names() []string
}

func (e *StandardExecutor) executePool(ctx context.Context, d Decision) error {
	if e.env.Pools == nil {
		return fmt.Errorf("%s: %w: the runtime has no pool manager (Config.Pools)", d.Kind(), ErrNotConfigured)
	}
	switch d := d.(type) {
	case JoinPool:
		return e.env.Pools.Join(ctx, d.Pool, d.Token)
	case LeavePool:
		return e.env.Pools.Leave(ctx, d.Pool)
	case CreatePool:
		return e.env.Pools.Create(ctx, pool.Spec{
			Name: d.Pool, Topics: d.Topics, Admission: d.Admission, Allowlist: d.Allowlist, Token: d.Token,
			Custom: d.Custom, Trust: d.Trust, Governance: d.Governance, MaxMembers: d.MaxMembers,
		})
	}
	return notConfigured(d)
}

// route returns which tasks the agent may claim now.
func (e *StandardExecutor) route() task.Profile {
	p := e.env.Route
	if e.env.Pools != nil {
		p.Pools = e.env.Pools.Names()
	}
	return p
}

// giveUp gives back the tasks that the agent holds of pools that it is no longer in, and stops the tools that
// work on them.
func (e *StandardExecutor) giveUp(ctx context.Context) {
	if e.env.Pools == nil || e.env.Tasks == nil {
		return
	}
	ops := e.notOf(e.env.Pools.Names())
	for i, r := range e.do(ctx, ops) {
		e.settled(ops[i].Claim, r.Err)
		if r.Err != nil && !task.IsLost(r.Err) {
			e.env.Logger.WarnContext(ctx, "cannot give a pool's task back; its claim runs out", "agent", e.env.Name, "error", r.Err)
		}
	}
}

// notOf ends what goes on for tasks of other pools than these, and returns what gives them back.
func (e *StandardExecutor) notOf(pools []string) (ops []remote.Op) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.held {
		if h.pool != "" && !slices.Contains(pools, h.pool) && h.end(task.ErrNotMember) {
			ops = append(ops, remote.Op{Kind: remote.OpRelease, Claim: h.claim})
		}
	}
	e.claimed = slices.DeleteFunc(e.claimed, func(t task.Task) bool { return t.Pool != "" && !slices.Contains(pools, t.Pool) })
	return ops
}

// end has the tools that work on a claim stop. It reports whether that is news. It wants the executor's lock.
func (h *heldClaim) end(why error) bool {
	if h.over != nil {
		return false
	}
	h.over = why
	close(h.ended)
	return true
}
