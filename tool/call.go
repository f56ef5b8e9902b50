package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// call is one call of a tool, and the context that the tool gets: with a deadline, the limit of the
// output, and a cause when it is cancelled. The standard context that does this is derived only when
// the tool asks for it, since to make one and its timer costs as much as all the rest of the guard,
// and a tool that answers at once does not ask.
type call struct {
	context.Context // the caller's
	gate            *gate
	params          json.RawMessage
	wake            chan struct{} // gets an element when the tool returns, and one when the deadline passes

	deadline       time.Time // set by deadlines.add
	previous, next *call     // the neighbours there

	output   Output // of the tool, like err and panicked; set when it has returned
	err      error
	panicked bool

	mu       sync.Mutex
	returned bool
	ended    error // why the context is over, if the guard knows; nil until then
	derived  context.Context
	cancel   context.CancelFunc // of derived
}

func newCall(ctx context.Context, t *gate, params json.RawMessage) *call {
	return &call{Context: ctx, gate: t, params: params, wake: make(chan struct{}, 2)}
}

// run is the body of the tool's goroutine. The slot is the tool's until it really returns.
func (c *call) run() {
	c.panicked = true // also if the tool ends the goroutine by runtime.Goexit
	defer func() {
		if value := recover(); value != nil {
			c.gate.guard.log.DebugContext(c.Context, "tool panicked", "agent", c.gate.guard.agent, "tool", c.gate.name,
				"value", fmt.Sprintf("%T", value), "stack", string(debug.Stack()))
		}
		<-c.gate.slots
		c.gate.guard.inflight.done()
		c.mu.Lock()
		c.returned = true
		c.mu.Unlock()
		c.wake <- struct{}{}
	}()
	c.output, c.err = c.gate.tool.Run(c, c.params)
	c.panicked = false
}

// expire ends the call because its deadline has passed.
func (c *call) expire() {
	c.end(c.gate.expired)
	c.wake <- struct{}{}
}

// end makes the context be over, for the first cause that is given. What was derived is cancelled, but
// not for lateness: it has the same deadline, and is to say so itself.
func (c *call) end(cause error) {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = cause
	}
	late, cancel := c.ended == error(c.gate.expired), c.cancel
	c.mu.Unlock()
	if cancel != nil && !late {
		cancel()
	}
}

// state reports whether the tool has returned, and why the context is over, or nil. A tool may see
// that before the guard does.
func (c *call) state() (returned bool, ended error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil && c.derived != nil && c.derived.Err() != nil {
		c.ended = context.Cause(c.derived)
	}
	return c.returned, c.ended
}

// derive returns the standard context that this one stands for.
func (c *call) derive() context.Context {
	c.mu.Lock()
	if c.derived == nil {
		c.derived, c.cancel = context.WithDeadlineCause(c.Context, c.deadline, c.gate.expired)
	}
	derived, ended := c.derived, c.ended
	c.mu.Unlock()
	if ended != nil {
		c.end(ended)
	}
	return derived
}

// Deadline implements [context.Context], as the following methods do.
func (c *call) Deadline() (time.Time, bool) {
	if callers, ok := c.Context.Deadline(); ok && callers.Before(c.deadline) {
		return callers, true
	}
	return c.deadline, true
}

func (c *call) Done() <-chan struct{} { return c.derive().Done() }

func (c *call) Err() error { return c.derive().Err() }

func (c *call) Value(key any) any {
	if key == (outputLimitKey{}) {
		return c.gate.maxOutput
	}
	return c.derive().Value(key)
}
