package llm

import (
	"context"
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
)

// conversation is what goes on about one task, or with one peer. Only the agent's goroutine uses it; while the model
// thinks, that goes on elsewhere with a copy of the history.
type conversation struct {
	key   string      // in the ledger
	nonce string      // makes the keys of subtasks this conversation's own; "" for a task, which others may go on with
	task  *task.Task  // nil for a conversation with a peer
	peer  identity.ID // whose messages it is about; the submitter of a task
	about string      // the task that messages are about
	depth int         // how many agents with models the task has come over before

	history  history
	taint    taint.Set
	deadline time.Time // zero for none
	touched  time.Time

	slots    []*slot          // of the last answer's calls, in their order
	subtasks map[string]*slot // by the task's ID
	same     map[string]int   // how often the same task was submitted
	asked    map[identity.ID]bool
	late     []string // messages that came while something else was to be done first
	due      bool     // the model has to be asked

	thinking  bool
	thought   uint64 // the last one that was begun
	stop      context.CancelFunc
	turns     int
	nudges    int
	over      bool      // closed: what comes is dropped until it is forgotten
	waitUntil time.Time // for answers of peers; zero if it does not wait

	ttl     time.Duration // of the claim
	renewAt time.Time
}

// slot is where the result of a call goes.
type slot struct {
	c      *conversation
	call   Call
	done   bool
	result Result
}

// fill puts a result into its slot; the first one counts.
func (s *slot) fill(text string, failed bool) {
	if s.done {
		return
	}
	s.done = true
	s.result = Result{CallID: s.call.ID, Text: text, Failed: failed}
	s.c.due = true
}

func (c *conversation) taskID() string {
	if c.task == nil {
		return ""
	}
	return c.task.ID
}

// open reports whether results are missing.
func (c *conversation) open() bool {
	for _, s := range c.slots {
		if !s.done {
			return true
		}
	}
	return false
}

// settle moves results and messages into the history once nothing is missing, and reports whether the model is to be
// asked now.
func (c *conversation) settle() bool {
	if c.over || c.thinking || c.open() || !c.due {
		return false
	}
	if len(c.slots) > 0 {
		m := Message{Role: User}
		for _, s := range c.slots {
			m.Results = append(m.Results, s.result)
		}
		c.history.messages = append(c.history.messages, m)
		c.slots = nil
	}
	for _, text := range c.late {
		c.history.say(text)
	}
	c.late, c.due = nil, false
	return true
}

// maxLate bounds the messages that wait for a conversation.
const maxLate = 32

// hear takes in a message of a peer; it is dropped if too many wait.
func (c *conversation) hear(text string, from taint.Set) bool {
	if len(c.late) >= maxLate {
		return false
	}
	c.late = append(c.late, text)
	c.taint = c.taint.Union(from)
	c.due = true
	return true
}

// newTask begins a conversation about a task.
func (a *Agent) newTask(t task.Task, now time.Time) *conversation {
	c := &conversation{
		key: t.ID, task: &t, peer: t.Submitter, about: t.ID, depth: depthOf(t.Spec), taint: taint.Of(taint.Peer(t.Submitter.String())),
		deadline: now.Add(a.config.TaskTimeout), ttl: max(t.ClaimExpires.Sub(t.UpdatedAt), task.MinClaimTTL),
	}
	if !t.Deadline.IsZero() && t.Deadline.Before(c.deadline) {
		c.deadline = t.Deadline
	}
	c.renewAt = now.Add(c.ttl / renewals)
	c.begin(now)
	c.history.say(a.taskText(&t))
	c.due = true
	return c
}

// renewals is how often a claim is renewed in the time that it holds.
const renewals = 3

func (c *conversation) begin(now time.Time) {
	c.touched, c.stop = now, func() {}
	c.subtasks, c.same, c.asked = map[string]*slot{}, map[string]int{}, map[identity.ID]bool{}
}

// newThread begins a conversation with a peer.
func newThread(peer identity.ID, now time.Time) *conversation {
	c := &conversation{key: "peer:" + peer.String(), nonce: fmt.Sprint(now.UnixNano()), peer: peer}
	c.begin(now)
	return c
}

// idle reports whether nothing is under way.
func (c *conversation) idle() bool { return !c.thinking && !c.open() && !c.due }

// before reports whether nothing has come for longer than in another conversation.
func (c *conversation) before(o *conversation) bool {
	if !c.touched.Equal(o.touched) {
		return c.touched.Before(o.touched)
	}
	return c.key < o.key
}
