// Package converge runs autonomous agents whose every message is signed and verified, every sender
// limited, every tool call authorised and every act counted.
//
// An [Agent] decides; a [Runtime] does the rest. It gives the agent a [Turn] (verified messages, tasks
// that it may claim, results of tools) and carries out the decisions that come back: it stamps and
// signs what is sent, asks the guard before a tool runs, and holds claims on tasks. What the agent
// cannot do by itself is speak as somebody else or run a tool that it was not given.
//
// Everything goes through one pipeline that fails closed. On the way in: size, encoding, known sender,
// audience, freshness, signature, replay window, hooks (rate limits first), inbox, turn. On the way
// out: decision, authorisation, egress limit, hooks, signature, transport.
package converge

import (
	"context"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// Agent decides what to do. The runtime calls its methods from one goroutine, one at a time. They must
// return when their context ends; a panic is logged and counted and costs the agent that turn only.
//
// An Agent may also be a [Starter], a [Stopper] and a [Ticker].
type Agent interface {
	// Decide answers a turn. Decisions are carried out in order; one that fails is logged, counted and
	// reported in the next turn's Failures, and the others go on. If Decide returns an error, the
	// decisions that come with it are not carried out.
	Decide(ctx context.Context, t Turn) ([]Decision, error)
}

// Starter is an [Agent] that prepares itself before its first turn. An error ends Run.
type Starter interface {
	OnStart(ctx context.Context) error
}

// Stopper is an [Agent] that cleans up after its last turn.
type Stopper interface {
	OnStop(ctx context.Context) error
}

// Ticker is an [Agent] that does something of its own before every turn. Config.TickEvery makes turns
// come regularly.
type Ticker interface {
	OnTick(ctx context.Context) error
}

// Turn is what an agent decides on. Its slices belong to the agent; messages are immutable. There is
// one turn when the agent starts and one whenever something of this list has come or changed.
type Turn struct {
	Messages []*message.Message // verified, addressed to this agent, in the order of arrival
	Tasks    []task.Task        // pending tasks that it may claim now: the first Config.TurnTasks of them
	Claimed  []task.Task        // tasks that it won since the last turn
	Results  []ToolResult       // tool calls that ended since the last turn
	Ended    []task.Task        // tasks that it submitted and that have ended since the last turn
	Failures []Failure          // decisions of the last turn that failed
	Pools    []string           // the pools that the agent is a member of now
	Began    time.Time          // when it was put together; agents that go by it can be replayed

	// Draining says that the runtime is about to stop: no new tasks are shown, and there will be few
	// turns more.
	Draining bool
}

func (t Turn) isEmpty() bool {
	return len(t.Messages)+len(t.Tasks)+len(t.Claimed)+len(t.Results)+len(t.Ended)+len(t.Failures) == 0
}

// ToolResult is how a tool call ended.
type ToolResult struct {
	CallID   string // the InvokeTool.CallID
	Tool     string
	TaskID   string    // the InvokeTool.TaskID
	Taint    taint.Set // of the params, and the tool itself
	Output   tool.Output
	Err      error // nil, or a *tool.Error: denied, not approved, invalid, timed out, …
	Duration time.Duration

	receipt uint64 // of the result; 0 if there is none
}

// Failure is a decision that could not be carried out.
type Failure struct {
	Decision Decision
	Err      error
}
