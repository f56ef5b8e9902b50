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
	// Agent names the agent in log lines.
	Agent string
	// Logger gets a warning for each denied call, an error for each timeout, and the stacks of
	// panics at debug. nil is [slog.Default].
	Logger *slog.Logger
}

// Guard runs tools for one agent: those on its allowlist, within their limits. It is safe for
// concurrent use and needs no closing, but see [Guard.Wait].
type Guard struct {
	agent    string
	log      *slog.Logger
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
	g := &Guard{agent: c.Agent, log: cmp.Or(c.Logger, slog.Default()), gates: map[string]*gate{}}
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

// Run calls the tool of that name with a copy of params, empty params meaning {}. It returns when the
// tool does, or as soon as the timeout is over or ctx ends, whatever the tool does then. Its errors
// are of type [*Error].
func (g *Guard) Run(ctx context.Context, name string, params json.RawMessage) (Output, error) {
	output, err := g.run(ctx, name, params)
	g.counts.add(err)
	if err != nil {
		return Output{}, err
	}
	return output, nil
}

func (g *Guard) run(ctx context.Context, name string, params json.RawMessage) (Output, *Error) {
	gate := g.gates[name]
	if gate == nil {
		g.log.WarnContext(ctx, "tool denied: not on the allowlist", "agent", g.agent, "tool", clip(name))
		return Output{}, &Error{Tool: clip(name), Reason: ErrDenied}
	}
	if len(params) == 0 {
		params = json.RawMessage("{}")
	}
	if len(params) <= MaxParams {
		params = bytes.Clone(params) // what is checked is what the tool gets
	}
	if err := gate.params.check(params); err != nil {
		return Output{}, gate.error(ErrInvalidParams, err)
	}
	return gate.run(ctx, params)
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
