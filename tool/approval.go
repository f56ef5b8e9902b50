package tool

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/taint"
)

// Annotations say what a tool does to the world. They are hints for those who approve calls, as good as
// whoever gave them; the guard goes by them only to refuse.
type Annotations struct {
	ReadOnly    bool // changes nothing
	Destructive bool // may delete or overwrite something
	OpenWorld   bool // deals with what is outside of this machine
}

// Annotated is an optional interface of a [Tool] that knows its annotations. The registry takes them where
// [Options] have none.
type Annotated interface{ Annotations() Annotations }

// Request is one call that an agent asks for. The guard fills in what it knows itself: the agent, the
// description and the annotations.
type Request struct {
	Agent   string // its name
	AgentID string // in hex

	Tool        string
	Description string
	Annotations Annotations
	Params      json.RawMessage // a JSON object that the schema accepts; not to be changed

	Taint  taint.Set // where the params come from
	TaskID string    // the task that the call is for, if any
	CallID string    // the agent's own name for the call
	Cause  uint64    // the receipt of the decision, for records; 0 if there is none
}

// Approver says whether a call may run that is on the allowlist and whose params are valid. It is called
// from many goroutines at once.
type Approver interface {
	// Approve returns nil if the call may run, once. It may wait for somebody to decide, and has to return
	// soon after ctx ends. The text of its error reaches the agent and the log. One that wraps [ErrCancelled]
	// says that the approver ends before anybody has decided; all others mean no.
	Approve(ctx context.Context, r Request) error
}

// errNobody is why tools that destroy do not run where nobody was asked to approve.
var errNobody = errors.New("it may destroy something, and nobody is there to approve it (GuardConfig.Approver)")

// approve asks whether the call may run. It holds no slot meanwhile, and the tool's timeout has not begun.
func (t *gate) approve(ctx context.Context, r Request) *Error {
	approver := t.guard.approver
	if approver == nil {
		if t.options.Annotations.Destructive {
			return t.error(ErrNotApproved, errNobody)
		}
		return nil
	}
	r.Agent, r.AgentID = t.guard.agent, t.guard.agentID
	r.Description, r.Annotations = t.options.Description, t.options.Annotations
	err := ask(ctx, approver, r)
	switch {
	case ctx.Err() != nil:
		return t.error(ErrCancelled, context.Cause(ctx))
	case errors.Is(err, ErrCancelled):
		return t.error(ErrCancelled, err)
	case err != nil:
		t.guard.log.WarnContext(ctx, "tool call not approved", "agent", t.guard.agent, "tool", t.name, "error", err)
		return t.error(ErrNotApproved, err)
	}
	return nil
}

func ask(ctx context.Context, a Approver, r Request) (err error) {
	defer panics.Catch(&err, "approver")
	return a.Approve(ctx, r)
}
