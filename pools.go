package converge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// ownPools is what a runtime does about the pools of its agent, nothing if it has no manager of pools. All but
// names is for Run's goroutine.
type ownPools struct {
	r       *Runtime
	manager *pool.Manager
	changed atomic.Bool              // something may be other than current says
	current atomic.Pointer[[]string] // the pools that the agent is in
	heard   map[string]message.Pattern
	shown   []string // in the last turn
}

func newOwnPools(r *Runtime) *ownPools {
	o := &ownPools{r: r, manager: r.config.Pools, heard: map[string]message.Pattern{}}
	o.current.Store(new([]string))
	return o
}

// orNil returns nil if the agent has no pools.
func (o *ownPools) orNil() Pools {
	if o.manager == nil {
		return nil
	}
	return o
}

// gated returns the hooks with the gate of pools around them: what others may not publish is dropped before
// any hook sees it, and what the agent may not publish is refused after all have.
func (c *Config) gated() []transport.Hook {
	gate := pool.NewGate(c.Pools, c.Identity.ID())
	hooks := append([]transport.Hook{transport.OnReceive(gate.PostReceive)}, c.Hooks...)
	if c.Pools != nil {
		hooks = append(hooks, transport.OnSend(gate.PreSend))
	}
	return hooks
}

// route returns which tasks the agent may see now.
func (r *Runtime) route() task.Profile {
	p := r.profile
	p.Pools = r.pools.names()
	return p
}

// sees reports whether a change of a task may concern the agent. Where the tasks are elsewhere, it is known
// there which pools the agent is in.
func (r *Runtime) sees(t task.Task) bool {
	p := r.route()
	if t.Pool != "" && r.config.hasRemoteTasks() {
		p.Pools = []string{t.Pool}
	}
	return p.Sees(t.Spec)
}

func (o *ownPools) names() []string { return *o.current.Load() }

// Names implements [Pools].
func (o *ownPools) Names() []string { return o.names() }

// Create implements [Pools].
func (o *ownPools) Create(ctx context.Context, s pool.Spec) error {
	_, err := o.manager.Create(ctx, o.r.config.Identity, s)
	return err
}

// Join implements [Pools]. The next decision may already need the membership.
func (o *ownPools) Join(ctx context.Context, name string, token pool.Token) error {
	if _, err := o.manager.Join(ctx, o.r.config.Identity, name, token); err != nil {
		return err
	}
	o.change(ctx)
	return nil
}

// Leave implements [Pools].
func (o *ownPools) Leave(ctx context.Context, name string) error {
	if err := o.manager.Leave(ctx, o.r.config.Identity, name); err != nil {
		return err
	}
	o.change(ctx)
	return nil
}

// change follows a change that the agent has decided on, and has it see that in a turn.
func (o *ownPools) change(ctx context.Context) {
	o.changed.Store(true)
	o.keepUp(ctx)
	o.r.schedule.Wake()
}

// attach has the runtime follow the agent's memberships, in which those of an earlier run take effect again.
func (o *ownPools) attach(ctx context.Context) (detach func(), err error) {
	if o.manager == nil {
		return func() {}, nil
	}
	detach = o.manager.Attach(func(c pool.Change) {
		if c.Member.IsZero() || c.Member == o.r.ID() {
			o.changed.Store(true)
			o.r.schedule.Wake()
		}
	})
	o.changed.Store(true)
	if err := o.follow(ctx); err != nil {
		detach()
		return nil, err
	}
	return detach, nil
}

// retryPools is how long after a subscription that could not be changed the runtime tries again.
const retryPools = time.Second

// keepUp follows the agent's memberships if they may have changed. What cannot be done now is tried again.
func (o *ownPools) keepUp(ctx context.Context) {
	if o.manager == nil || !o.changed.Load() {
		return
	}
	if err := o.follow(ctx); err != nil && ctx.Err() == nil {
		o.r.log.Warn("cannot follow the agent's pools; trying again", "error", err, "in", retryPools)
		o.changed.Store(true)
		o.r.schedule.WakeAfter(retryPools)
	}
}

// show returns the pools that the agent is in, to be shown to it.
func (o *ownPools) show() []string {
	o.shown = o.names()
	return slices.Clone(o.shown)
}

// isNews reports whether the agent is in other pools than it was last shown.
func (o *ownPools) isNews() bool { return !slices.Equal(o.shown, o.names()) }

// follow brings subscriptions and claims into line with the agent's memberships.
func (o *ownPools) follow(ctx context.Context) error {
	o.changed.Store(false) // before looking
	names := o.manager.Pools(o.r.ID())
	o.current.Store(&names)
	if e, ok := o.r.executor.(*StandardExecutor); ok {
		e.giveUp(ctx)
	}
	return errors.Join(o.subscribe(ctx, names), o.unsubscribe(ctx, names))
}

func (o *ownPools) subscribe(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, heard := o.heard[name]; heard {
			continue
		}
		p, err := pool.Pattern(name)
		if err == nil {
			err = o.r.hooked.Subscribe(ctx, p)
		}
		if err != nil {
			return fmt.Errorf("hear the topics of pool %q: %w", name, err)
		}
		o.heard[name] = p
	}
	return nil
}

func (o *ownPools) unsubscribe(ctx context.Context, names []string) error {
	for name, p := range o.heard {
		if slices.Contains(names, name) {
			continue
		}
		if err := o.unhear(ctx, p); err != nil {
			return fmt.Errorf("no longer hear the topics of pool %q: %w", name, err)
		}
		delete(o.heard, name)
	}
	return nil
}

// unhear ends a subscription, unless the agent would have it anyway.
func (o *ownPools) unhear(ctx context.Context, p message.Pattern) error {
	for _, own := range o.r.config.Topics {
		if own.String() == p.String() {
			return nil
		}
	}
	return o.r.hooked.Unsubscribe(ctx, p)
}
