package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Defaults of a [GuardConfig].
const (
	DefaultTimeout       = 30 * time.Second
	DefaultMaxConcurrent = 16
	DefaultMaxWaiting    = 1024
	DefaultMaxOutput     = 1 << 20
)

// GuardConfig configures a [Guard]. The zero value allows nothing.
type GuardConfig struct {
	// Tools holds the tools that the allowlist names; nil holds none. The guard takes its tools from
	// it when it is made, and later registrations do not reach it.
	Tools *Registry
	// Allowlist names the tools that may run. nil and empty allow none; there is no wildcard.
	Allowlist []string
	// Timeout bounds a call, its wait for a free slot included. 0 is [DefaultTimeout] for tools that
	// set none.
	Timeout time.Duration
	// MaxConcurrent bounds the running calls of each tool, hung ones included. 0 is
	// [DefaultMaxConcurrent] for tools that set none.
	MaxConcurrent int
	// MaxWaiting bounds the calls of each tool that wait for a free slot. 0 is [DefaultMaxWaiting].
	MaxWaiting int
	// MaxOutput bounds the bytes of an output. 0 is [DefaultMaxOutput] for tools that set none.
	MaxOutput int
	// Approver is asked before each call, once the allowlist and the schema let it through. nil refuses
	// tools whose annotations say that they destroy, and lets all others run.
	Approver Approver
	// Agent names the agent in log lines and for the Approver, and AgentID is its ID in hex.
	Agent, AgentID string
	// Logger gets a warning for each denied call, an error for each timeout, and the stacks of
	// panics at debug. nil is [slog.Default].
	Logger *slog.Logger
}

// Guard runs tools for one agent: those on its allowlist, within their limits. It is safe for
// concurrent use and needs no closing, but see [Guard.Wait].
type Guard struct {
	agent    string
	agentID  string
	log      *slog.Logger
	approver Approver
	gates    map[string]*gate // by the names on the allowlist; never changes
	counts   counters
	inflight inflight
}

// NewGuard makes a guard and starts nothing. It refuses negative limits, and an allowlist with a name
// that is not registered ([ErrUnknownTool]), since that is a slip of whoever wrote it.
func NewGuard(c GuardConfig) (*Guard, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	g := &Guard{agent: c.Agent, agentID: c.AgentID, log: cmp.Or(c.Logger, slog.Default()), approver: c.Approver, gates: map[string]*gate{}}
	var unknown []error
	for _, name := range c.Allowlist {
		tool, err := c.tools().entry(name)
		if err != nil {
			unknown = append(unknown, fmt.Errorf("tool guard: Allowlist: %w: register it first, or take it off the list", err))
			continue
		}
		g.gates[name] = newGate(g, tool, c)
	}
	if err := errors.Join(unknown...); err != nil {
		return nil, err
	}
	return g, nil
}

func (c GuardConfig) check() error {
	for _, limit := range []struct {
		field string
		value int64
	}{
		{"Timeout", int64(c.Timeout)},
		{"MaxConcurrent", int64(c.MaxConcurrent)},
		{"MaxWaiting", int64(c.MaxWaiting)},
		{"MaxOutput", int64(c.MaxOutput)},
	} {
		if limit.value < 0 {
			return fmt.Errorf("tool guard: %s is negative; 0 means its default", limit.field)
		}
	}
	return nil
}

func (c GuardConfig) tools() *Registry {
	if c.Tools == nil {
		return NewRegistry()
	}
	return c.Tools
}

// Run is [Guard.Call] for a call of which nothing but the tool and its params is known.
func (g *Guard) Run(ctx context.Context, name string, params json.RawMessage) (Output, error) {
	return g.Call(ctx, Request{Tool: name, Params: params})
}

// Call calls the tool of that name with a copy of the params, empty params meaning {}. It waits for the
// approver first. From then on, it returns when the tool does, or as soon as the timeout is over or ctx
// ends, whatever the tool does then. Its errors are of type [*Error].
func (g *Guard) Call(ctx context.Context, r Request) (Output, error) {
	output, err := g.call(ctx, r)
	g.counts.add(err)
	if err != nil {
		return Output{}, err
	}
	return output, nil
}

func (g *Guard) call(ctx context.Context, r Request) (Output, *Error) {
	gate := g.gates[r.Tool]
	if gate == nil {
		g.log.WarnContext(ctx, "tool denied: not on the allowlist", "agent", g.agent, "tool", clip(r.Tool))
		return Output{}, &Error{Tool: clip(r.Tool), Reason: ErrDenied}
	}
	if len(r.Params) == 0 {
		r.Params = json.RawMessage("{}")
	}
	if len(r.Params) <= MaxParams {
		r.Params = bytes.Clone(r.Params) // what is checked and approved is what the tool gets
	}
	if err := gate.params.check(r.Params); err != nil {
		return Output{}, gate.error(ErrInvalidParams, err)
	}
	if err := gate.approve(ctx, r); err != nil {
		return Output{}, err
	}
	return gate.run(ctx, r.Params)
}

// Wait blocks until no tool of this guard runs: a call that [Guard.Run] gave up may still end its work
// or hang. If ctx ends first, the error says how many run. Call it when no new calls are made.
func (g *Guard) Wait(ctx context.Context) error {
	select {
	case <-g.inflight.idle():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for tools: %d still running: %w", g.inflight.count(), context.Cause(ctx))
	}
}
