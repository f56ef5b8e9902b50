package approval

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

// call is one call on its way to be approved.
type call struct {
	tool.Request
	hash   [sha256.Size]byte // of what an allowance is bound to
	params [sha256.Size]byte // hash of the params
	key    string            // of its request in the store
	rule   int
	reason string
}

// folder is where requests lie in the store, under the hash of the call.
const folder = "approval"

// callDomain keeps the hash apart from all others.
const callDomain = "converge-approval-call-v1"

func newCall(r tool.Request, d policy.Decision) *call {
	labels := r.Taint.Labels()
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "?")
	}
	r.Taint = taint.Of(labels...)
	c := &call{Request: r, params: sha256.Sum256(r.Params), rule: d.Rule, reason: d.Reason}
	b := cose.AppendArray(nil, 6)
	for _, part := range []string{callDomain, r.AgentID, r.Agent, r.Tool, r.TaskID} {
		b = cose.AppendBytes(b, []byte(part))
	}
	c.hash = sha256.Sum256(cose.AppendBytes(b, c.params[:]))
	c.key = store.Key(folder, hex.EncodeToString(c.hash[:]))
	return c
}

func forPolicy(c tool.Request, now time.Time) policy.Call {
	return policy.Call{
		Agent: c.Agent, AgentID: c.AgentID, Tool: c.Tool,
		Destructive: c.Annotations.Destructive, ReadOnly: c.Annotations.ReadOnly, OpenWorld: c.Annotations.OpenWorld,
		Params: c.Params, Taint: c.Taint.Labels(), Task: c.TaskID, Now: now,
	}
}

// verdict says what became of the call; r is its request, nil if there was none.
func (c *call) verdict(o Outcome, r *record, err error) Verdict {
	v := Verdict{
		Outcome: o, Agent: c.Agent, AgentID: c.AgentID, Tool: c.Tool, ParamsSHA256: hex.EncodeToString(c.params[:]),
		Taint: c.Taint.Labels(), TaskID: c.TaskID, CallID: c.CallID, Cause: c.Cause, Rule: c.rule, Reason: c.reason, Err: err,
	}
	if r != nil {
		v.Request, v.Asked, v.By, v.Claimed, v.Note, v.Decided = r.ID, r.Asked, r.By, r.Claimed, r.Note, r.Decided
	}
	return v
}
