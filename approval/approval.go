// Package approval decides whether tool calls may run: by a policy, and, where that says so, by asking
// somebody.
//
// A [Service] is a [tool.Approver]. A call that its policy asks about is parked: a record in the store shows
// it to those who may decide ([Service.List]), and the call waits, without a slot of its tool, until one of
// them has ([Service.Decide]), in this process or in another that shares the store, or until its time is
// over. What holds:
//
//   - Nothing runs that nobody allowed: without a policy, after an error, when the time is over or too many
//     calls wait already, the call is denied.
//   - An allowance is good for one call, bound to the agent, the tool, the params and the task, and to a taint
//     that is not more than was shown. It is used up by deleting it from the store, which only one can do.
//   - The first decision counts, and one that comes too late does not.
//   - A process that dies leaves its requests behind for the rest of their time. Asked again by its successor,
//     the same call finds its request, decided or not. When their time is over, others sweep them.
//   - A denial counts for the same call until the request's time is over, so that asking again and again does
//     not tire those who decide.
//
// The store is not trusted with any of that. Records are authenticated by a key ([Config.Key]) that those share who
// decide for each other, so whoever can write to the store can take requests away, and calls with them, but neither
// allow one nor change what is shown of it.
package approval

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/tool"
)

// Defaults and bounds of a [Config].
const (
	DefaultTimeout            = 10 * time.Minute
	DefaultMaxPending         = 256
	DefaultMaxPendingPerAgent = 16

	MinKey      = 16 // bytes
	MaxTimeout  = 7 * 24 * time.Hour
	MostPending = 4096
)

// Bounds of what is shown and noted, in bytes.
const (
	MaxShown = 8 << 10 // of params
	MaxNote  = 1 << 10
	MaxBy    = 256
)

// Why a call was not approved, or a request not decided.
var (
	ErrPolicy   = errors.New("denied by the policy")
	ErrRefused  = errors.New("denied by who was asked")
	ErrTimedOut = errors.New("nobody has decided in time")
	ErrTooMany  = errors.New("too many calls wait for approval")
	ErrStopped  = fmt.Errorf("%w: the process ends", tool.ErrCancelled)

	// ErrUnrecorded says that the call was allowed and that there can be no record of that, so that it does not run.
	ErrUnrecorded = errors.New("that it was allowed cannot be recorded")

	ErrUnknown = errors.New("no such request")
	ErrDecided = errors.New("the request has been decided")
	ErrEnded   = errors.New("the request has ended")
)

// State is how far a request has got.
type State string

// The states of requests.
const (
	Waiting   State = "waiting"
	Allowed   State = "allowed"
	Denied    State = "denied"
	TimedOut  State = "timed out"
	Withdrawn State = "withdrawn" // the call ended before anybody decided
)

// Request is a call that waits for approval, as those see it who decide.
type Request struct {
	ID          string `json:"id"` // 16 hexadecimal digits
	Agent       string `json:"agent"`
	AgentID     string `json:"agent_id,omitempty"`
	Tool        string `json:"tool"`
	Description string `json:"description,omitempty"`
	Destructive bool   `json:"destructive"`
	ReadOnly    bool   `json:"read_only"`
	OpenWorld   bool   `json:"open_world"`
	// Params are JSON unless ParamsCut says that long texts, or the end, are left out to keep within
	// [MaxShown]. They are what the agent chose: hostile text, perhaps.
	Params       string    `json:"params"`
	ParamsCut    bool      `json:"params_cut"`
	ParamsSize   int       `json:"params_size"`   // of all, in bytes
	ParamsSHA256 string    `json:"params_sha256"` // of all, in hex
	Taint        []string  `json:"taint"`
	TaskID       string    `json:"task_id,omitempty"`
	CallID       string    `json:"call_id,omitempty"`
	Rule         int       `json:"rule"`             // of the policy that asks, from 1
	Reason       string    `json:"reason,omitempty"` // that it gives
	Asked        time.Time `json:"asked"`
	Expires      time.Time `json:"expires"`

	State   State     `json:"state"`
	By      string    `json:"by,omitempty"`      // who decided, as far as that is proven
	Claimed string    `json:"claimed,omitempty"` // who decided, as they say
	Note    string    `json:"note,omitempty"`
	Decided time.Time `json:"decided,omitzero"`
}

// Decision is somebody's answer to a request.
type Decision struct {
	Allow   bool
	By      string // who it is, as far as that is proven; at most [MaxBy] bytes
	Claimed string // who they say that they are; at most [MaxBy] bytes
	Note    string // for the agent and for the records; at most [MaxNote] bytes
}

// Outcome is how it ended with one call.
type Outcome string

// The outcomes of calls.
const (
	PolicyAllowed Outcome = "policy_allowed"
	PolicyDenied  Outcome = "policy_denied"
	AllowedBy     Outcome = "allowed"   // somebody allowed it
	DeniedBy      Outcome = "denied"    // somebody denied it
	NobodyDecided Outcome = "timed_out" // in time
	CallEnded     Outcome = "withdrawn" // before anybody decided
	NoRoom        Outcome = "full"      // too many waited
	NotAsked      Outcome = "failed"    // it could not be asked or recorded, by an error of the store or the record
)

// Outcomes returns all outcomes.
func Outcomes() []Outcome { return slices.Clone(outcomes[:]) }

var outcomes = [...]Outcome{PolicyAllowed, PolicyDenied, AllowedBy, DeniedBy, NobodyDecided, CallEnded, NoRoom, NotAsked}

// Verdict is what became of one call, for records.
type Verdict struct {
	Outcome      Outcome
	Request      string // its ID; "" if nobody was asked
	Agent        string
	AgentID      string
	Tool         string
	ParamsSHA256 string
	Taint        []string
	TaskID       string
	CallID       string
	Cause        uint64 // the receipt of the decision to call, see [tool.Request]
	Rule         int    // of the policy, from 1; 0 if none matched
	Reason       string // that the policy gives
	By, Claimed  string
	Note         string
	Asked        time.Time // zero if nobody was asked
	Decided      time.Time
	Err          error // why it was not approved; nil if it was
}
