package tool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// gate is where the calls of one tool pass one guard.
type gate struct {
	*registered
	guard      *Guard
	timeout    time.Duration
	maxOutput  int
	maxWaiting int64
	slots      chan struct{} // holds one element for each running call
	waiting    atomic.Int64
	deadlines  deadlines
	expired    *Error // the cause with which the contexts of late calls are cancelled
}

func newGate(g *Guard, r *registered, c GuardConfig) *gate {
	timeout := limit(r.options.Timeout, c.Timeout, DefaultTimeout)
	return &gate{
		registered: r,
		guard:      g,
		timeout:    timeout,
		maxOutput:  limit(r.options.MaxOutput, c.MaxOutput, DefaultMaxOutput),
		maxWaiting: int64(cmp.Or(c.MaxWaiting, DefaultMaxWaiting)),
		slots:      make(chan struct{}, limit(r.options.MaxConcurrent, c.MaxConcurrent, DefaultMaxConcurrent)),
		expired:    &Error{Tool: r.name, Reason: ErrTimeout, Err: fmt.Errorf("no result after %v", timeout)},
	}
}

// limit returns the smaller of those that are set, and the default if none is.
func limit[T int | time.Duration](tool, guard, standard T) T {
	if tool != 0 && guard != 0 {
		return min(tool, guard)
	}
	return cmp.Or(tool, guard, standard)
}

func (t *gate) error(reason, err error) *Error { return &Error{Tool: t.name, Reason: reason, Err: err} }

// run waits for a slot, calls the tool in a goroutine of its own, and waits for the result as long as
// the timeout and ctx allow.
func (t *gate) run(ctx context.Context, params json.RawMessage) (Output, *Error) {
	c := newCall(ctx, t, params)
	t.deadlines.add(c)
	defer c.end(context.Canceled)
	defer t.deadlines.remove(c)
	if err := t.acquire(ctx, c); err != nil {
		return Output{}, err
	}
	t.guard.counts.run.Add(1)
	t.guard.inflight.add()
	go c.run()
	select {
	case <-c.wake:
	case <-ctx.Done():
		c.end(context.Cause(ctx))
	}
	return t.judge(c)
}

// acquire takes a slot. Waiting calls get theirs in the order of their arrival.
func (t *gate) acquire(ctx context.Context, c *call) *Error {
	if ctx.Err() != nil {
		return t.notAdmitted(ctx)
	}
	select {
	case t.slots <- struct{}{}:
		return nil
	default:
		return t.wait(ctx, c)
	}
}

func (t *gate) wait(ctx context.Context, c *call) *Error {
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > t.maxWaiting {
		return t.error(ErrBusy, fmt.Errorf("%d calls run and %d wait already", cap(t.slots), t.maxWaiting))
	}
	select {
	case t.slots <- struct{}{}:
		if _, ended := c.state(); ended == nil && ctx.Err() == nil {
			return nil
		}
		<-t.slots // all at the same moment: a call that is over does not start
	case <-ctx.Done():
	case <-c.wake: // by its deadline
	}
	return t.notAdmitted(ctx)
}

// notAdmitted is the error of a call that got no slot in time. It is not ErrTimeout, since a caller
// that knows that nothing ran can safely try again.
func (t *gate) notAdmitted(ctx context.Context) *Error {
	if ctx.Err() != nil {
		return t.error(ErrCancelled, context.Cause(ctx))
	}
	return t.error(ErrBusy, fmt.Errorf("none of its %d slots became free within %v", cap(t.slots), t.timeout))
}

// judge turns the state of a call into what the agent gets.
func (t *gate) judge(c *call) (Output, *Error) {
	returned, ended := c.state()
	switch {
	case returned && c.panicked:
		return Output{}, t.error(ErrPanicked, nil)
	case returned && c.err == nil && len(c.output.Data) > t.maxOutput:
		return Output{}, t.error(ErrOutputTooLarge, fmt.Errorf("more than %d bytes", t.maxOutput))
	case returned && c.err == nil:
		return c.output, nil
	case ended == error(t.expired):
		t.guard.log.ErrorContext(c.Context, "tool timed out", "agent", t.guard.agent, "tool", t.name, "timeout", t.timeout)
		return Output{}, t.error(ErrTimeout, t.expired.Err)
	case ended != nil:
		return Output{}, t.error(ErrCancelled, ended)
	default:
		return Output{}, t.error(reason(c.err), c.err)
	}
}

// reason is the reason that a tool's own error states. One from behind another guard is not about this
// call.
func reason(err error) error {
	_, nested := errors.AsType[*Error](err)
	switch {
	case !nested && errors.Is(err, ErrInvalidParams):
		return ErrInvalidParams
	case !nested && errors.Is(err, ErrOutputTooLarge):
		return ErrOutputTooLarge
	default:
		return ErrFailed
	}
}
