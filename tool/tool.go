// Package tool lets agents act on the world, and stands guard before each act.
//
// A [Tool] is a name and a function. A [Registry] holds the tools of a process; a [Guard] decides
// which of them one agent may run, and how. What the guard promises:
//
//   - No tool runs that the allowlist does not name, letter for letter. An empty allowlist allows
//     nothing.
//   - A tool sees only params that are a JSON object of at most [MaxParams] bytes and that its schema
//     accepts.
//   - A call that the [Approver] does not approve does not run; without an approver, no tool runs that says of
//     itself that it destroys.
//   - [Guard.Call] returns when the timeout is over, whether the tool honours its context or not. A tool
//     that hangs keeps the slot that it runs in, so it can use up its own slots and no other tool's.
//   - At most so many calls of a tool run, and at most so many wait; the next is refused at once.
//   - Output beyond the cap is an error, never a part of the output. A panic is an error.
//   - Params and output appear in no log line and in no error that this package makes.
//
// The guard cannot take back memory or CPU from Go code that ignores its context; package command runs
// programs, which it kills.
package tool

import (
	"context"
	"encoding/json"

	"github.com/google/jsonschema-go/jsonschema"
)

// Tool is something that an agent can run.
type Tool interface {
	// Name returns the name by which the tool is registered, allowed and called: 1 to 128 letters,
	// digits, '_', '-' and '.'. It always returns the same name.
	Name() string
	// Run does the work. It is called from many goroutines at once, gets a JSON object that it may
	// keep, and should return soon after ctx ends, since nobody reads its result from then on.
	//
	// The text of an error reaches logs and agents: it should hold neither params nor output. Errors
	// that wrap [ErrInvalidParams] or [ErrOutputTooLarge] keep that reason; all others get
	// [ErrFailed].
	Run(ctx context.Context, params json.RawMessage) (Output, error)
}

// Describer is an optional interface of a [Tool] that knows its description and schema. The registry
// takes from it what [Options] leave out.
type Describer interface {
	// Description says, for people and models, what the tool does; "" says nothing.
	Description() string
	// InputSchema returns the schema of the params; nil accepts any JSON object.
	InputSchema() *jsonschema.Schema
}

// Output is what a tool returns.
type Output struct {
	Data        []byte
	ContentType string // a media type such as application/json; "" if the tool does not say
}

// Func makes a tool of a function, which has to keep the contract of [Tool].
func Func(name string, fn func(ctx context.Context, params json.RawMessage) (Output, error)) Tool {
	return funcTool{name, fn}
}

type funcTool struct {
	name string
	fn   func(context.Context, json.RawMessage) (Output, error)
}

func (t funcTool) Name() string { return t.name }

func (t funcTool) Run(ctx context.Context, params json.RawMessage) (Output, error) {
	return t.fn(ctx, params)
}

// OutputLimit returns how many bytes of output the guard that made ctx accepts. A tool whose output
// has no bound of its own should stop there and return [ErrOutputTooLarge]; the guard checks the
// length again. ok is false where no guard made ctx.
func OutputLimit(ctx context.Context) (bytes int, ok bool) {
	bytes, ok = ctx.Value(outputLimitKey{}).(int)
	return bytes, ok
}

type outputLimitKey struct{}
