package llm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/taint"
)

// Exchange is one call of a model, for records. But for Content, it says what was asked and answered by hashes only.
type Exchange struct {
	Conversation string // the task's ID, or peer: and the ID of the peer
	TaskID       string // "" for messages of peers
	Model        string
	Attempt      int               // from 1
	Request      [sha256.Size]byte // of the request as JSON
	Response     [sha256.Size]byte // of the response as JSON; zero if there is none
	Usage        Usage
	Started      time.Time
	Duration     time.Duration
	Taint        taint.Set // of what was asked
	Err          error     // nil, or why there is no response
	Content      []byte    // the response or the error in full, for Recall.Observe; nil without Config.Journal
}

// thought is what came of asking the model.
type thought struct {
	c      *conversation
	number uint64
	answer Response
	err    error
}

// advance asks the model wherever it is its turn.
func (a *Agent) advance(t *turn) {
	if a.draining { // what is held is given back
		return
	}
	for _, c := range a.allTasks() {
		a.think(t, c)
	}
	for _, c := range a.allThreads() {
		a.think(t, c)
	}
}

// think asks the model, beside the turns.
func (a *Agent) think(t *turn, c *conversation) {
	if !c.settle() {
		return
	}
	if c.turns >= a.config.MaxTurns {
		a.fail(t, c, fmt.Sprintf("the model has answered %d times and come to no end", c.turns))
		return
	}
	c.history.compact(a.config.MaxHistory)
	request := Request{
		System: a.system(c), Messages: slices.Clone(c.history.messages), Tools: a.functions(c.task != nil),
		Temperature: a.config.Temperature, Stream: a.config.Stream,
	}
	a.asked++
	first, err := a.ledger.reserve(c.key, a.estimate(a.asked, request), a.config.MaxTokens)
	if err != nil {
		a.fail(t, c, err.Error())
		return
	}
	c.thinking, c.thought, first.thought = true, a.asked, a.asked
	if a.config.Recall != nil {
		a.ledger.hold(first)
		return
	}
	deadline := c.deadline
	if deadline.IsZero() {
		deadline = t.now.Add(a.config.TaskTimeout)
	}
	ctx, stop := context.WithDeadline(a.ctx, deadline)
	c.stop = stop
	q := question{conversation: c.key, task: c.taskID(), taint: c.taint, request: request, first: first}
	a.asking.Add(1)
	a.thinking.Go(func() {
		defer a.asking.Add(-1)
		defer stop()
		answer, err := a.ask(ctx, q)
		a.mu.Lock()
		a.thoughts = append(a.thoughts, thought{c, first.thought, answer, err}) // one for each conversation at most, but for those that are over
		a.mu.Unlock()
		a.wake()
	})
}

// question is what the model is asked.
type question struct {
	conversation, task string
	taint              taint.Set
	request            Request
	first              reservation // for the first attempt
}

// ask asks the model until it answers, within the budget.
func (a *Agent) ask(ctx context.Context, q question) (Response, error) {
	return a.config.Retry.Do(ctx, func(attempt int) (Response, error) {
		r := q.first
		if attempt > 1 {
			var err error
			if r, err = a.ledger.reserveAgain(q.first, EstimateInput(q.request), a.config.MaxTokens); err != nil {
				return Response{}, err
			}
			a.count(func(s *Stats) { s.Retries++ })
		}
		return a.attempt(ctx, q, attempt, r)
	})
}

// attempt asks the model once, and settles the account.
func (a *Agent) attempt(ctx context.Context, q question, attempt int, r reservation) (Response, error) {
	request := q.request
	request.MaxTokens = r.maxTokens
	ctx, cancel := context.WithTimeout(ctx, a.config.CallTimeout)
	defer cancel()
	started := time.Now()
	answer, err := a.chat(ctx, request)
	used := answer.Usage
	if err != nil {
		used = usageOfFailure(request, err)
	}
	a.ledger.settle(r, used)
	a.count(func(s *Stats) {
		s.Calls++
		s.InputTokens += uint64(used.Input)
		s.OutputTokens += uint64(used.Output)
		s.Cost += uint64(a.config.Price.of(used.Input, used.Output))
		if err != nil {
			s.Failures++
		}
	})
	if lost := a.tell(q, attempt, request, answer, used, started, err); lost != nil {
		a.log.Error("call of the model cannot be recorded", "conversation", q.conversation, "error", lost)
		return Response{}, errUnrecorded
	}
	return answer, err
}

var errUnrecorded = errors.New("the call of the model cannot be recorded")

func (a *Agent) chat(ctx context.Context, r Request) (answer Response, err error) {
	defer panics.Catch(&err, "provider")
	answer, err = a.config.Provider.Chat(ctx, r)
	if err == nil && (answer.Usage.Input < 0 || answer.Usage.Output < 0) {
		answer.Usage = Usage{}
	}
	if err == nil {
		answer.Usage = answer.Usage.OrEstimated(r, answer)
	}
	return answer, err
}

// usageOfFailure guesses what a call has cost that was begun and came to nothing.
func usageOfFailure(r Request, err error) Usage {
	for _, begun := range []error{ErrMalformed, ErrTimeout, ErrTooLarge, ErrCancelled} {
		if errors.Is(err, begun) {
			return Usage{Input: EstimateInput(r), Estimated: true}
		}
	}
	return Usage{}
}

// tell reports a call of the model, and returns why there is no record of it.
func (a *Agent) tell(q question, attempt int, r Request, answer Response, used Usage, started time.Time, err error) error {
	if err != nil {
		detail := ""
		if failed, ok := errors.AsType[*Error](err); ok {
			detail = failed.Detail
		}
		a.log.Warn("model call failed", "conversation", q.conversation, "attempt", attempt, "error", err, "detail", detail)
	}
	if a.config.Record == nil {
		return nil
	}
	e := Exchange{
		Conversation: q.conversation, TaskID: q.task, Model: a.config.Model, Attempt: attempt, Request: digest(hashed{r.System, r.Messages, r.Tools, r.MaxTokens, r.Temperature}),
		Usage: used, Started: started, Duration: time.Since(started), Taint: q.taint, Err: err,
	}
	if err == nil {
		e.Response = digest(answer)
	}
	if a.config.Journal != nil {
		e.Content = keepAnswer(q.first.thought, attempt, answer, err)
	}
	return a.config.Record(e)
}

// hashed is the part of a request that the model sees.
type hashed struct {
	System      string    `json:"system"`
	Messages    []Message `json:"messages"`
	Tools       []Tool    `json:"tools"`
	MaxTokens   int       `json:"max_tokens"`
	Temperature *float64  `json:"temperature,omitempty"`
}

func digest(v any) [sha256.Size]byte { return sha256.Sum256(mustMarshal(v)) }

// takeThoughts takes in what the model has answered.
func (a *Agent) takeThoughts(t *turn) {
	for _, th := range a.arrived(t) {
		if th.c.over || th.number != th.c.thought {
			continue
		}
		a.note.Taken = append(a.note.Taken, keptThought{th.number, recording.NewError(th.err)})
		th.c.thinking = false
		th.c.touched = t.now
		if th.err != nil {
			a.thoughtFailed(t, th.c, th.err)
			continue
		}
		a.takeAnswer(t, th.c, th.answer)
	}
}

// arrived returns the thoughts that have come back.
func (a *Agent) arrived(t *turn) (thoughts []thought) {
	if a.config.Recall != nil {
		thoughts, t.err = a.recalled()
		return thoughts
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	thoughts, a.thoughts = a.thoughts, nil
	return thoughts
}

func (a *Agent) thoughtFailed(t *turn, c *conversation, err error) {
	if a.ctx.Err() != nil { // the agent is stopping: the task is given back
		return
	}
	if !c.deadline.IsZero() && !t.now.Before(c.deadline) {
		err = fmt.Errorf("the task's time of %v is over: %w", a.config.TaskTimeout, err)
	}
	a.fail(t, c, err.Error())
}

// takeAnswer makes decisions of what the model wants.
func (a *Agent) takeAnswer(t *turn, c *conversation, answer Response) {
	c.turns++
	a.count(func(s *Stats) { s.Answers++ })
	calls := tidy(c, answer.Calls)
	c.history.messages = append(c.history.messages, Message{Role: Assistant, Text: answer.Text, Calls: calls})
	if len(calls) == 0 {
		a.noCalls(t, c, answer)
		return
	}
	c.nudges = 0
	for _, call := range calls {
		c.slots = append(c.slots, &slot{c: c, call: call})
	}
	for i, s := range c.slots {
		if c.over {
			return
		}
		if i >= maxCallsAtOnce {
			a.refused(c, s, refuse(TooManyCalls, "more than %d calls at once", maxCallsAtOnce))
			continue
		}
		a.carryOut(t, c, answer.Calls[i], s)
	}
}

// carryOut makes a decision of a call, refuses it, or ends the conversation.
func (a *Agent) carryOut(t *turn, c *conversation, call Call, s *slot) {
	d, err := a.act(c, call, s)
	if errors.Is(err, ErrBudget) {
		a.fail(t, c, err.Error())
		return
	}
	if err != nil {
		a.refused(c, s, err)
		return
	}
	t.do(d)
	switch d.(type) {
	case converge.ReportTask, converge.FailTask:
		a.ledger.forget(c.key)
		a.drop(t, c)
	}
}

// refused tells the model why a call is not carried out.
func (a *Agent) refused(c *conversation, s *slot, err error) {
	reason := InvalidArguments
	if r, ok := errors.AsType[*refusal](err); ok {
		reason = r.reason
	}
	a.count(func(s *Stats) {
		if s.Refused == nil {
			s.Refused = map[Reason]uint64{}
		}
		s.Refused[reason]++
	})
	a.log.Warn("call of the model refused", "conversation", c.key, "function", clean(s.call.Name, maxToolName), "reason", reason)
	s.fill("Refused: "+err.Error(), true)
}

// maxNudges is how often in a row a model is told that it has to call a function.
const maxNudges = 2

// replyPatience is how long a conversation waits for the answer of a peer that its model has written to.
const replyPatience = 2 * time.Minute

// noCalls deals with an answer that asks for nothing.
func (a *Agent) noCalls(t *turn, c *conversation, answer Response) {
	switch {
	case c.task == nil: // it has nothing to say to the peer
	case answer.Stop == StopRefusal:
		a.fail(t, c, "the model refuses to answer")
	case answer.Stop == StopLength:
		a.nudge(t, c, "Your answer was cut off, since it was too long. Be shorter, and call a function.")
	case len(c.asked) > 0 && c.nudges == 0:
		c.waitUntil = t.now.Add(replyPatience)
		c.nudges++
	default:
		a.nudge(t, c, "Nothing has happened: you have called no function. Call report_task with the result, or fail_task with the reason.")
	}
}

func (a *Agent) nudge(t *turn, c *conversation, text string) {
	if c.nudges++; c.nudges > maxNudges {
		a.fail(t, c, errNoAnswer.Error())
		return
	}
	c.late = append(c.late, text)
	c.due = true
}

// tidy returns the calls as they may stand in a history: with names that servers accept, and IDs of their own.
func tidy(c *conversation, calls []Call) []Call {
	seen := map[string]bool{}
	tidied := slices.Clone(calls)
	for i, call := range calls {
		if !isToolName(call.Name) {
			tidied[i].Name = "invalid_name"
		}
		if len(call.ID) > maxToolName || !isToolName(call.ID) || seen[call.ID] {
			tidied[i].ID = fmt.Sprintf("c%03dx%04d", c.turns%1000, i) // nine letters and digits, as Mistral wants them
		}
		seen[tidied[i].ID] = true
		tidied[i].Args = string(call.Object())
	}
	return tidied
}

func isToolName(s string) bool {
	for _, b := range []byte(s) {
		if !('a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_' || b == '-') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= maxToolName
}

// Stats are counts of an agent.
type Stats struct {
	Calls               uint64 // of the model, each attempt
	Failures            uint64 // of those
	Retries             uint64
	Answers             uint64 // that were taken in
	InputTokens         uint64
	OutputTokens        uint64
	Cost                uint64 // of those tokens, in millionths of the currency of Config.Price
	Conversations       uint64
	FailedConversations uint64
	Unheard             uint64            // messages that the model was not shown
	Refused             map[Reason]uint64 // calls that the model wanted and that became no decision
	Today               Use
}

// Stats returns the counts of this moment. It is safe for concurrent use.
func (a *Agent) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Refused = map[Reason]uint64{}
	for reason, n := range a.stats.Refused {
		s.Refused[reason] = n
	}
	s.Today = a.ledger.usedToday()
	return s
}

func (a *Agent) count(add func(*Stats)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	add(&a.stats)
}
