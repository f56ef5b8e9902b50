// Package task hands out work: tasks are submitted, shown to those agents that they are routed to,
// claimed by one of them, and completed, failed or cancelled, once.
//
// A [Manager] keeps its tasks on a [store.Store]. Any number of managers, in any number of processes,
// may share one; every change of a task is a compare-and-set on its record, so they need not know of
// each other. What they guarantee together:
//
//   - A task goes pending → assigned → completed, failed or cancelled. It may go from assigned back to
//     pending, when a claim expires, is released or fails with attempts left; it never leaves one of
//     the last three, but for a dead letter that its submitter requeues ([Manager.Requeue]).
//   - A claim has exactly one winner. Each has an epoch, higher than those before it, which serves as
//     fencing token: with [Manager.Heartbeat], [Manager.Report] and [Manager.Fail] the holder shows it,
//     and one that lost its claim is refused with [ErrClaimLost].
//   - A claim that has expired is lost from that instant, whether or not anything has noticed.
//     Managers that somebody is attached to notice by themselves, and release it.
//
// # Attempts
//
// A claim that its agent gives up with [Manager.Fail], and one that runs out, is an attempt; one that is
// released is not. What comes next is for Spec.MaxAttempts to say. While attempts are left, the task is
// pending again: at once after a claim that ran out, which has taken its time, and after a failure when a
// pause is over that doubles from one to the next (Spec.Backoff), with some chance in it. After the last
// one the task is a dead letter: it has failed, Task.DeadLetter is set, and its submitter may requeue it.
// A claimant that knows that nobody can do the task ends it with [Manager.FailPermanently].
//
// Who claims may die at any moment, so a task may be worked on more than once, and is completed at most
// once. Work that must not be repeated needs the claim's epoch as fencing token where it takes effect.
//
// # Signatures
//
// The submitter signs what it submits, and the claimant how it ends the task; the record carries both, so
// that it proves who, whoever keeps the store. A [Signer] makes these signatures, together for those who come
// at the same time. A manager with a [Verifier] takes in nothing without them, and takes a record that somebody
// has written to the store for as good as corrupt if they do not verify: it skips it, counts it, and says so
// to those who ask for it by name. What failed at its deadline, or since its claims ran out, was ended by a
// manager, and nobody has signed that; nor are claims, releases and cancellations signed.
//
// # Submitting once
//
// A Spec.IdempotencyKey makes a submission safe to repeat, by any program on any manager: the ID of the
// task derives from submitter and key, so that the store lets one in. It holds for as long as the task is
// kept: until Config.Retention after it has ended.
//
// # Time
//
// Where the store has a clock ([store.Clock]), that clock is the time, for all who share the store.
// Otherwise it is this process's, as it was when the manager was made, going on without regard to how
// the computer's clock is set afterwards. Managers on a store without clock should agree on the time to
// within a small part of the claims' time to live; where they do not, a claim may end early, but still no
// two agents can report one, and no claim lasts longer than its time to live from when a manager first
// saw it.
package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// Errors that callers branch on with [errors.Is].
var (
	ErrNotFound     = errors.New("no such task")
	ErrExists       = errors.New("task exists")
	ErrNotPending   = errors.New("task is not pending")
	ErrNotRouted    = errors.New("task is not routed to this agent")
	ErrClaimLost    = errors.New("claim is lost")
	ErrTerminal     = errors.New("task has ended")
	ErrNotSubmitter = errors.New("only the submitter of a task may do that")
	ErrNotDead      = errors.New("task is not a dead letter")
	ErrNotMember    = errors.New("agent is not a member of the task's pool")
	ErrFull         = errors.New("too many pending tasks")
	ErrInvalid      = errors.New("invalid argument")
	ErrRecord       = errors.New("unreadable task record") // corrupt, written by a newer version, or not to be trusted
	ErrUnsigned     = errors.New("not signed by the agent that it is said to be of")
	ErrForged       = errors.New("signed by another than the agent that it is said to be of")
)

// IsLost reports whether an error of [Manager.Heartbeat], [Manager.Report] or [Manager.Fail] means that
// the task is no longer the claimant's to end, so that trying again is of no use.
func IsLost(err error) bool {
	return errors.Is(err, ErrClaimLost) || errors.Is(err, ErrTerminal) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotMember)
}

// Status is the state of a task. The zero Status is none.
type Status uint8

// The states of a task. The last three are terminal.
const (
	Pending Status = iota + 1
	Assigned
	Completed
	Failed
	Cancelled
)

var statusText = [...]string{Pending: "pending", Assigned: "assigned", Completed: "completed", Failed: "failed", Cancelled: "cancelled"}

// Terminal reports whether a task in this state has ended.
func (s Status) Terminal() bool { return s >= Completed && s <= Cancelled }

// String returns the lower-case name of the state.
func (s Status) String() string {
	if s < Pending || s > Cancelled {
		return fmt.Sprintf("status(%d)", uint8(s))
	}
	return statusText[s]
}

// MarshalText implements [encoding.TextMarshaler] with the form of [Status.String].
func (s Status) MarshalText() ([]byte, error) {
	if s < Pending || s > Cancelled {
		return nil, fmt.Errorf("task status %d does not exist", uint8(s))
	}
	return []byte(statusText[s]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; it leaves s alone on error.
func (s *Status) UnmarshalText(text []byte) error {
	i := slices.Index(statusText[:], string(text))
	if i < int(Pending) {
		return fmt.Errorf("task status %.80q does not exist", text)
	}
	*s = Status(i)
	return nil
}

// Spec says what is to be done and who may do it. A name, where it says so, is made of 1 to 128 ASCII
// letters, digits and "._:/@+-".
type Spec struct {
	ID   string // a name, unused so far; empty means 16 random bytes in hexadecimal
	Kind string // a name: what sort of work this is. Required.

	Params json.RawMessage // a JSON object of at most MaxParams bytes; empty means {}

	// The routing: an agent sees the task if it has all Capabilities, and a pattern that matches Topic
	// if one is set, and is in Pool if one is set.
	Capabilities []string // names, at most MaxCapabilities; kept sorted and without repetition
	Topic        message.Topic
	Pool         string // a name

	Submitter identity.ID   // who may cancel it. Required.
	ClaimTTL  time.Duration // how long a claim lasts without heartbeat, MinClaimTTL to MaxClaimTTL; 0 means the manager's default
	NotBefore time.Time     // when it is first shown, and can be claimed; zero means at once
	Deadline  time.Time     // when it fails if it has not ended, attempts left or not; zero means never
	Priority  int           // higher ones are shown first

	// MaxAttempts is how many claims may fail or run out before the task is a dead letter, up to
	// MostAttempts. 0 means that nobody tries again what an agent has failed at: the first failure ends
	// the task, while up to DefaultLapses claims may run out.
	MaxAttempts int
	Backoff     Backoff // the pauses between attempts

	// IdempotencyKey, a name, makes the submission safe to repeat: Submit returns the task that is there
	// already if the submitter has used the key for the same content, and ErrExists if it was another.
	// ID has to be empty then, or what IDForKey returns.
	IdempotencyKey string

	// Proof shows that Submitter has submitted all of the above to the network; [Signer.SignSpecs] makes it. It
	// is no part of the content.
	Proof []byte
}

// Backoff is how long a task waits after a failure: after the first for Base, then twice as long each
// time, up to Max. Chance takes off up to half.
type Backoff struct {
	Base time.Duration // 0 means DefaultBackoffBase
	Max  time.Duration // at least Base, at most MaxBackoff; 0 means DefaultBackoffMax, or Base if that is more
}

// Defaults of a [Spec].
const (
	DefaultClaimTTL    = 30 * time.Second
	DefaultLapses      = 16
	DefaultBackoffBase = time.Second
	DefaultBackoffMax  = 5 * time.Minute
)

// Limits of a task.
const (
	MaxParams       = 256 << 10 // bytes of Spec.Params
	MaxResult       = 512 << 10 // bytes of a result
	MaxReason       = 4 << 10   // bytes of the reason for a failure
	MaxCapabilities = 32
	MinClaimTTL     = 10 * time.Millisecond
	MaxClaimTTL     = 24 * time.Hour
	MostAttempts    = 1000
	MaxBackoff      = 7 * 24 * time.Hour
)

// Task is a task as it was at one revision. Times are UTC and without monotonic reading.
type Task struct {
	Spec
	Status       Status
	Claimant     identity.ID // who holds it, or held it when it ended; zero if nobody
	Epoch        uint64      // how many claims it has seen; the last one's fencing token
	ClaimExpires time.Time   // zero unless assigned
	CreatedAt    time.Time
	UpdatedAt    time.Time
	ReadyAt      time.Time      // when a pending task can be claimed, if it has or had to wait for that
	Attempts     int            // claims that have failed or run out, since it was submitted or requeued
	DeadLetter   bool           // it has failed since its attempts are used up
	Result       []byte         // of a completed task
	ResultType   string         // its media type
	Error        string         // why a task failed, or the last attempt at one that has not ended
	ResultProof  []byte         // that Claimant has ended it so; see [Verifier.VerifyEnding]. None if it has not
	Revision     store.Revision // of its record; grows with every change
	Existed      bool           // set by Submit alone: the task was there already (Spec.IdempotencyKey)
}

// Profile is what an agent can do and where it is. The zero Profile sees the tasks that ask for nothing.
type Profile struct {
	Agent        identity.ID
	Capabilities []string
	Topics       []message.Pattern
	Pools        []string
	Kinds        []string // the kinds of tasks that it wants to see; none means all
}

// Sees reports whether tasks with this routing are shown to the agent.
func (p Profile) Sees(s Spec) bool { return p.sees(&s) }

func (p *Profile) sees(s *Spec) bool {
	return p.wants(s.Kind) && p.inPool(s.Pool) && p.onTopic(s.Topic) && p.has(s.Capabilities)
}

func (p *Profile) wants(kind string) bool { return len(p.Kinds) == 0 || slices.Contains(p.Kinds, kind) }

func (p *Profile) has(capabilities []string) bool {
	for _, c := range capabilities {
		if !slices.Contains(p.Capabilities, c) {
			return false
		}
	}
	return true
}

func (p *Profile) onTopic(t message.Topic) bool {
	return t.IsZero() || slices.ContainsFunc(p.Topics, func(pattern message.Pattern) bool { return pattern.Matches(t) })
}

func (p *Profile) inPool(pool string) bool {
	return pool == "" || slices.Contains(p.Pools, pool)
}

// Claim is the right to end a task, held by one agent until Expires. The pair of task and epoch is
// unique for as long as the task is kept, and so fit to fence off what a former holder does elsewhere.
type Claim struct {
	TaskID string
	Agent  identity.ID
	Epoch  uint64
	// Submission is the digest of what was submitted, which the holder's signature is for. It is zero where the
	// manager is an unsafe one, which nothing is signed for.
	Submission Digest
	Expires    time.Time // by the clock of this process, to compare with time.Now; Task.ClaimExpires is the store's
}
