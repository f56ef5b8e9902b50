// Package remote lets the agents of one process work on the tasks of a [task.Manager] in another, with
// nothing between them but signed messages. A [Host] stands before the manager; each agent elsewhere has
// a [Client], which can be used in the manager's place. What package task guarantees holds across
// processes, because the manager decides everything: one winner a claim, epochs, times to live, late
// reports refused.
//
// # Authority
//
// Who submits, claims, reports or cancels is the agent that signed the message, whatever its body says;
// the body has no place for it. What agents may do at a host is the host's [Policy], and without one it
// cannot be made. An agent sees and claims what the profile matches that it announces, which the policy
// may narrow; it learns of other tasks only if it has submitted or holds them. Which pools it is in, it does
// not announce with any effect: that is for the host to know ([HostConfig.Pools]).
//
// # Requests
//
// A request is a message of [RequestType] to the host, its answer one of [ReplyType] that names the
// request as what it replies to. There are three sorts:
//
//   - Operations: up to [MaxOps] changes of tasks ([Op]), carried out in order, each with its own result.
//     Those that the answer has no room for are not carried out; the client asks again.
//   - A poll: the client names the pending tasks that it knows and how far it has followed the ends of
//     its own tasks. The host answers when it has something else to tell: at once, or when tasks change,
//     or after at most [MaxPark]. What is parked costs memory, no goroutine; a newer poll of an agent
//     replaces the one before.
//   - A review: the client names tasks that it has submitted or holds, and is told of those that have
//     ended, and of those that are not its own (any more).
//
// Ends of tasks are told by sequence number. A host remembers the last of them, for the agents that have
// lately asked it something. Where it cannot say what came after the client's number (it was restarted,
// the client was away too long), it says so together with a number to go on from, and the client makes
// a review: nothing is missed, whatever happens in between.
//
// # Lost messages
//
// Messages get lost, to rate limits as well. A client that hears nothing asks again, with growing pauses
// that chance varies. That is safe, since what was carried out already is answered as it was: a task
// submitted twice with the same content, a claim of what the agent holds, a report of the recorded
// result or failure, the release of what has been released, the cancellation of what is cancelled, the
// requeueing of what is no dead letter any more. When a host does
// not answer for [Config.Patience], operations fail with [ErrUnavailable], and go on failing at once
// until the host answers the poll.
//
// # Clocks
//
// The clock of the host's manager decides. No message has a time of day: instants are sent as what remains, or has
// passed, and a client counts what remains of a claim from when it asked, so that it never believes to
// hold what it has lost.
//
// # Bytes
//
// Bodies are maps with integer keys in the CBOR of package cose: deterministic, and decoded strictly.
// Zero values are left out, and refused where they are spelled out. docs/decisions/012 has the keys.
package remote

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// Content types of the messages between clients and hosts.
const (
	RequestType = "application/converge-task-request+cbor"
	ReplyType   = "application/converge-task-reply+cbor"
)

// Limits of requests and of what hosts keep.
const (
	MaxOps     = 64               // operations in a request
	MaxWindow  = 256              // pending tasks that a poll asks for
	MaxReview  = 1024             // tasks in a review
	MaxNames   = 256              // capabilities, topics, pools and kinds, each, of a profile
	MaxPark    = 10 * time.Second // how long a host keeps a poll
	MaxWatched = 1 << 20          // tasks that a client has submitted and that have not ended
	MaxEvents  = 1 << 16          // ends of tasks that a host remembers
	maxText    = 1024             // bytes of a name
	maxTaskID  = 128
	maxPattern = message.MaxTopicText
	maxProfile = 32 << 10 // bytes of the profile in a poll, which is kept
)

// Errors that callers branch on with [errors.Is], besides those of package task, which come through as
// they are.
var (
	// ErrUnavailable says that the host could not be reached, or could not reach its store. Whether an
	// operation was carried out is not known; doing it again is safe.
	ErrUnavailable = errors.New("the host of the tasks does not answer")
	// ErrNotAllowed says that the host's policy does not let this agent do that.
	ErrNotAllowed = errors.New("the host does not allow that to this agent")
	// ErrUnsupported says that the host does not know such a request: it runs another version.
	ErrUnsupported = errors.New("the host does not know such a request")
	// ErrProtocol says that what the other side sent is not a request or a reply.
	ErrProtocol = errors.New("not a task request or reply")
	// ErrNotBound says that a [Client] has not been bound to an agent.
	ErrNotBound = errors.New("the client of a task host is not bound to an agent")
)

// Requester signs a draft, sends it, and returns the verified message that answers it: the one that
// names it as what it replies to, from the agent that was asked. transport.Hooked is one.
type Requester interface {
	Request(ctx context.Context, d message.Draft) (*message.Message, error)
}

// Binding says for whom a [Client] works. All but Window and Logger are required.
type Binding struct {
	Requester Requester
	Profile   task.Profile // the agent, and what it announces itself to be
	Window    int          // pending tasks that it wants to see at once, up to MaxWindow; 0 means 64
	Logger    *slog.Logger // nil means slog.Default
}

// Rights is what an agent may do at a host. The zero Rights is nothing.
type Rights struct {
	Submit bool // submit tasks, cancel and requeue them, and learn how they end
	Work   bool // see and claim tasks that its profile matches, and end those that it holds
	// Narrow, if set, says what the agent is taken for, given what it announces. Its answer counts for
	// everything but the agent's ID.
	Narrow func(announced task.Profile) task.Profile
}

// Policy says what an agent may do. It is called for every request, and has to be quick and safe for
// concurrent use.
type Policy func(agent identity.ID) Rights

// AllowAll lets every agent whose messages are verified submit and work, with any profile. It is a
// [Policy].
func AllowAll(identity.ID) Rights { return Rights{Submit: true, Work: true} }

// Kind is what an [Op] does. The zero Kind is nothing.
type Kind uint8

// The kinds of operations, by the method of [task.Manager] that carries them out.
const (
	OpSubmit Kind = iota + 1
	OpClaim
	OpHeartbeat
	OpReport
	OpFail
	OpRelease
	OpCancel
	OpRequeue
)

// String returns the name of the operation in errors.
func (k Kind) String() string {
	names := [...]string{"", "submit", "claim", "heartbeat for", "report", "fail", "release", "cancel", "requeue"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown operation on"
}

// Op is one change of one task.
type Op struct {
	Kind       Kind
	Spec       task.Spec  // of OpSubmit
	TaskID     string     // of OpClaim, OpCancel and OpRequeue
	Claim      task.Claim // of OpHeartbeat, OpReport, OpFail and OpRelease
	Result     []byte     // of OpReport
	ResultType string     // of OpReport
	Reason     string     // of OpFail
	Permanent  bool       // of OpFail: the task ends, whatever attempts it has left
	Proof      []byte     // of OpReport and OpFail: that of a task.Ending
}

// Ending returns how OpReport and OpFail end a task.
func (o *Op) Ending() task.Ending {
	e := task.Failure(o.Claim, o.Reason)
	e.Permanent = o.Permanent
	if o.Kind == OpReport {
		e = task.Completion(o.Claim, o.Result, o.ResultType)
	}
	e.Proof = o.Proof
	return e
}

// id returns the task that the operation is about.
func (o *Op) id() string {
	switch o.Kind {
	case OpSubmit:
		return o.Spec.ID
	case OpClaim, OpCancel, OpRequeue:
		return o.TaskID
	}
	return o.Claim.TaskID
}

// Result is what came of an [Op]: its error, or what the method of [task.Manager] returns. Of Task,
// Params and Result are there only after OpClaim, and after OpSubmit.
type Result struct {
	Task  task.Task
	Claim task.Claim // of OpClaim and OpHeartbeat
	Err   error
}
