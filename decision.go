package converge

import (
	"encoding/json"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
)

// Decision is something that an agent wants done. The types below are carried out by the runtime;
// any other type needs a handler for its Kind in ExecutorConfig.Handlers.
type Decision interface {
	// Kind names the sort of decision, in lower case with underscores. It appears in logs and metrics.
	Kind() string
}

// SendMessage signs and sends a draft.
type SendMessage struct{ Draft message.Draft }

// SubmitTask submits a task. The runtime sets the submitter, whatever Spec says. When the task has
// ended it appears in Turn.Ended: once, however often it is submitted with one idempotency key meanwhile.
type SubmitTask struct{ Spec task.Spec }

// ClaimTask claims a pending task. A claim that is won appears in the next turn's Claimed; one that is
// lost to another agent in its Failures.
type ClaimTask struct{ TaskID string }

// ReportTask reports the result of a task that the agent holds.
type ReportTask struct {
	TaskID      string
	Result      []byte
	ContentType string // "" means message.DefaultContentType
}

// FailTask reports that a task that the agent holds cannot be done: now, so that it is tried again if it
// has attempts left, or by nobody ever.
type FailTask struct {
	TaskID    string
	Reason    string
	Permanent bool // the task ends, whatever attempts it has left
}

// CancelTask cancels a task that the agent submitted.
type CancelTask struct{ TaskID string }

// InvokeTool runs a tool under the guard, beside the agent's turns. However it ends, its result
// appears in a later turn's Results. If TaskID names a task that the agent holds, the runtime renews the
// claim for as long as the tool runs, and stops the tool if the claim is lost.
type InvokeTool struct {
	Tool   string
	Params json.RawMessage // a JSON object; nil means {}
	CallID string          // comes back in the result; the runtime does not look at it
	TaskID string          // the task that the call is for, if any
	// Taint says where the params come from, if the agent keeps track of that. nil means everything that the
	// agent has been shown since it started, see [Turn.Taint].
	Taint *taint.Set
}

// RenewClaim renews the claim on a task that the agent holds, while it works on it by other means than tools
// (see [InvokeTool]): at a third of the time that a claim holds, say. It fails if the claim is lost.
type RenewClaim struct{ TaskID string }

// Wake asks for a turn after a pause, even if nothing has come by then.
type Wake struct{ After time.Duration }

// JoinPool asks to be let into a pool. From then on the agent hears the pool's topics, may publish to them,
// and sees the pool's tasks.
type JoinPool struct {
	Pool  string
	Token pool.Token // for a pool that asks for one
}

// LeavePool leaves a pool. Tasks of the pool that the agent holds are given back, and the tools that work on
// them are stopped; the same happens when the pool's owner no longer has the agent.
type LeavePool struct{ Pool string }

// CreatePool creates a pool that the agent owns, which does not make it a member. See pool.Spec for what the
// fields mean.
type CreatePool struct {
	Pool       string
	Topics     []string
	Admission  pool.Admission
	Allowlist  []identity.ID
	Token      pool.Token
	Custom     string
	Trust      float64
	Governance string
	MaxMembers int
}

// The decisions below belong to protocols that this version does not carry out: they fail with
// ErrNotConfigured.

// SubmitBid bids in an auction.
type SubmitBid struct {
	Auction string
	Amount  string // a decimal number
}

// Vote casts the agent's ballot.
type Vote struct {
	Ballot string
	Choice string
}

// Propose opens a negotiation, or answers an offer with another.
type Propose struct {
	To    identity.ID
	Terms json.RawMessage
}

// AcceptProposal accepts an offer, by its hash.
type AcceptProposal struct{ Proposal string }

// RejectProposal rejects an offer, by its hash.
type RejectProposal struct {
	Proposal string
	Reason   string
}

// Delegate lends another agent part of this agent's authority.
type Delegate struct {
	To     identity.ID
	Scopes []string
	TTL    time.Duration
}

// RevokeDelegation takes lent authority back.
type RevokeDelegation struct{ Delegation string }

// Kind implements [Decision].
func (SendMessage) Kind() string { return "send_message" }

// Kind implements [Decision].
func (SubmitTask) Kind() string { return "submit_task" }

// Kind implements [Decision].
func (ClaimTask) Kind() string { return "claim_task" }

// Kind implements [Decision].
func (ReportTask) Kind() string { return "report_task" }

// Kind implements [Decision].
func (FailTask) Kind() string { return "fail_task" }

// Kind implements [Decision].
func (RenewClaim) Kind() string { return "renew_claim" }

// Kind implements [Decision].
func (CancelTask) Kind() string { return "cancel_task" }

// Kind implements [Decision].
func (InvokeTool) Kind() string { return "invoke_tool" }

// Kind implements [Decision].
func (Wake) Kind() string { return "wake" }

// Kind implements [Decision].
func (JoinPool) Kind() string { return "join_pool" }

// Kind implements [Decision].
func (LeavePool) Kind() string { return "leave_pool" }

// Kind implements [Decision].
func (CreatePool) Kind() string { return "create_pool" }

// Kind implements [Decision].
func (SubmitBid) Kind() string { return "submit_bid" }

// Kind implements [Decision].
func (Vote) Kind() string { return "vote" }

// Kind implements [Decision].
func (Propose) Kind() string { return "propose" }

// Kind implements [Decision].
func (AcceptProposal) Kind() string { return "accept_proposal" }

// Kind implements [Decision].
func (RejectProposal) Kind() string { return "reject_proposal" }

// Kind implements [Decision].
func (Delegate) Kind() string { return "delegate" }

// Kind implements [Decision].
func (RevokeDelegation) Kind() string { return "revoke_delegation" }
