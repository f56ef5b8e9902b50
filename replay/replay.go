// Package replay has agents decide again on what they were shown, from the receipts of a log that records
// (converge.AuditConfig.Content): with the messages, tasks and results of tools as they were, and nothing
// carried out. It finds the first decision that is another one than at the time, which tells what changed: the agent's
// code, its configuration, or that it goes by something that is not in the record, such as the clock or chance.
//
// An agent that goes by its turns alone decides the same. What is not the same as at the time: messages are
// not [message.Message.Verified], since their signatures are of the past; errors are told by their texts ([errors.Is] finds the
// errors that they wrapped); pauses of converge.Wake and tokens of pools are not compared.
package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// Errors of replays, to be compared with [errors.Is].
var (
	// ErrNotRecorded says that the log does not hold what the agent was shown.
	ErrNotRecorded = recording.ErrMissing
	// ErrNoAgent says that the log has no such agent, or not its start.
	ErrNoAgent = errors.New("no start of that agent is in the log")
)

// Config says what is replayed. Required are Agent, and Name or ID.
type Config struct {
	Name  string      // of the agent, as at its start (converge.Config.Name)
	ID    identity.ID // of the agent; zero means that of the first agent of that name
	Check audit.Check // what the files are held to; Each is not called
	// Agent makes the agent anew, for each time that it was started.
	Agent func(At) (converge.Agent, error)
	// Observe, if set, is called for each receipt of the agent with content that is nothing that the runtime shows, and for
	// each of a model's answers (audit.KindModel) even without, in their order and before the turn that comes after it.
	Observe func(*audit.Entry) error
}

// At is the past that an agent finds itself in. Its methods may be called while the agent decides.
type At struct {
	ID   identity.ID
	Name string
	past *past
}

// past is what is known of the turn that is replayed.
type past struct {
	now    time.Time
	proofs map[string]error // of tasks that have ended: what was wrong with their signatures
}

// Now returns when the turn began that is being replayed.
func (a At) Now() time.Time { return a.past.now }

// VerifyEnding returns what came of verifying how a task was ended, at the time.
func (a At) VerifyEnding(t *task.Task) error {
	err, known := a.past.proofs[t.ID]
	if !known {
		return identity.ErrUnknown
	}
	return err
}

// Summary is what was replayed.
type Summary struct {
	Starts, Turns, Decisions int
	Difference               *Difference // the first one; nil if there is none
}

// Difference is where an agent decided something else than at the time.
type Difference struct {
	Turn     uint64 // the receipt
	Number   int    // of the decision, from 1; 0 if Decide itself ended in another way
	Recorded string // what was decided, for people; "" for nothing
	Got      string // what is decided now
}

// String returns the difference in a few lines.
func (d *Difference) String() string {
	what := "the turn"
	if d.Number > 0 {
		what = fmt.Sprintf("decision %d", d.Number)
	}
	or := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return s
	}
	return fmt.Sprintf("receipt %d, %s is another one:\n  recorded: %s\n  now:      %s", d.Turn, what, or(d.Recorded), or(d.Got))
}

var errDiffers = errors.New("it differs")

// Run replays an agent from the files of a log, up to the first difference, which is no error. Its errors wrap
// [ErrNoAgent], [ErrNotRecorded], ctx's cause, the error of Config.Agent or Config.Observe, or are those of
// [audit.Verify]; the summary then says how far it came.
func Run(ctx context.Context, c Config, files ...string) (Summary, error) {
	switch {
	case c.Agent == nil:
		return Summary{}, errors.New("replay.Config.Agent: required")
	case c.Name == "" && c.ID.IsZero():
		return Summary{}, errors.New("replay.Config: Name or ID is required")
	}
	p := &player{Config: c, ctx: ctx, past: &past{}}
	c.Check.Each = p.take
	_, err := audit.Verify(c.Check, files...)
	if errors.Is(err, errDiffers) {
		err = nil
	}
	if err == nil && p.sum.Starts == 0 {
		err = fmt.Errorf("replay %s: %w", p.who(), ErrNoAgent)
	}
	return p.sum, err
}

// player is a replay under way.
type player struct {
	Config
	ctx  context.Context
	past *past
	sum  Summary

	agent    converge.Agent
	messages map[uint64]*message.Message    // by receipt
	results  map[uint64]converge.ToolResult // likewise
	before   []converge.Decision            // of the last turn
}

func (p *player) who() string {
	if p.Name != "" {
		return fmt.Sprintf("agent %q", p.Name)
	}
	return "agent " + p.ID.String()
}

// take takes in one receipt.
func (p *player) take(e *audit.Entry) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	if p.ID.IsZero() && e.Kind == audit.KindStart && e.Subject == p.Name {
		p.ID = e.Agent
	}
	if p.ID.IsZero() || e.Agent != p.ID || e.Kind != audit.KindStart && p.agent == nil {
		return nil
	}
	if err := p.play(e); err != nil {
		if errors.Is(err, errDiffers) {
			return err
		}
		return fmt.Errorf("replay %s, receipt %d: %w", p.who(), e.Seq, err)
	}
	return nil
}

func (p *player) play(e *audit.Entry) error {
	switch e.Kind {
	case audit.KindStart:
		return p.start(e)
	case audit.KindStop:
		p.agent = nil
	case audit.KindMessage:
		return p.message(e)
	case audit.KindResult:
		return p.result(e)
	case audit.KindTurn:
		return p.turn(e)
	default:
		if p.Observe != nil && (len(e.Content) > 0 || e.Kind == audit.KindModel) {
			return p.Observe(e)
		}
	}
	return nil
}

// decode reads the content of a receipt.
func decode(e *audit.Entry, v any) error {
	if len(e.Content) == 0 {
		return fmt.Errorf("%w: the receipt has no content; set audit.record, or AuditConfig.Content, before", ErrNotRecorded)
	}
	return recording.Decode(e.Content, v)
}

// start makes the agent, and brings it to where it was when it started.
func (p *player) start(e *audit.Entry) (err error) {
	var s recording.Start
	if err := decode(e, &s); err != nil {
		return err
	}
	*p.past = past{now: e.Time, proofs: map[string]error{}}
	p.messages, p.results, p.before = map[uint64]*message.Message{}, map[uint64]converge.ToolResult{}, nil
	if p.agent, err = p.Config.Agent(At{ID: e.Agent, Name: e.Subject, past: p.past}); err != nil {
		return err
	}
	p.sum.Starts++
	return p.restore(s)
}

func (p *player) restore(s recording.Start) (err error) {
	state := s.Begun
	if state == nil {
		state = s.Restored
	}
	keeper, keeps := p.agent.(converge.Checkpointer)
	defer panics.Catch(&err, "agent")
	if keeps && state != nil {
		if err := keeper.Restore(state); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if starter, ok := p.agent.(converge.Starter); ok {
		if err := starter.OnStart(p.ctx); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	if keeps {
		_, err = keeper.Checkpoint()
	}
	return err
}

func (p *player) message(e *audit.Entry) error {
	var kept recording.Message
	if err := decode(e, &kept); err != nil {
		return err
	}
	m, err := message.ParseUnsafe(kept.Raw)
	if err != nil {
		return err
	}
	if kept.Type != "" {
		m = m.WithBody(kept.Body, kept.Type)
	}
	p.messages[e.Seq] = m
	return nil
}

func (p *player) result(e *audit.Entry) error {
	var kept recording.Result
	if err := decode(e, &kept); err != nil {
		return err
	}
	p.results[e.Seq] = converge.ToolResult{
		CallID: kept.CallID, Tool: kept.Tool, TaskID: kept.TaskID, Taint: taint.Of(kept.Taint...),
		Output: tool.Output{Data: kept.Data, ContentType: kept.ContentType}, Err: kept.Err.Again(), Duration: kept.Duration,
	}
	return nil
}

// turn shows the agent a turn again, and compares.
func (p *player) turn(e *audit.Entry) error {
	var kept recording.Decided
	if err := decode(e, &kept); err != nil {
		return err
	}
	var shown recording.Turn
	if err := recording.Decode(kept.Turn, &shown); err != nil {
		return err
	}
	t, err := p.show(&shown)
	if err != nil {
		return err
	}
	decisions, err := p.decide(t)
	if errors.Is(err, ErrNotRecorded) {
		return err
	}
	p.sum.Turns++
	p.sum.Decisions += len(kept.Decisions)
	p.before = decisions
	return p.compare(e.Seq, &kept, decisions, err)
}

// show makes a turn of what was kept of it.
func (p *player) show(s *recording.Turn) (t converge.Turn, err error) {
	p.past.now = s.Began
	t = converge.Turn{Began: s.Began, Tasks: s.Tasks, Claimed: s.Claimed, Pools: s.Pools, Draining: s.Draining}
	for _, seq := range s.Messages {
		m := p.messages[seq]
		if m == nil {
			return t, fmt.Errorf("%w: the message of receipt %d", ErrNotRecorded, seq)
		}
		delete(p.messages, seq)
		t.Messages = append(t.Messages, m)
	}
	for _, seq := range s.Results {
		r, ok := p.results[seq]
		if !ok {
			return t, fmt.Errorf("%w: the result of receipt %d", ErrNotRecorded, seq)
		}
		delete(p.results, seq)
		t.Results = append(t.Results, r)
	}
	for _, ended := range s.Ended {
		t.Ended = append(t.Ended, ended.Task)
		p.past.proofs[ended.Task.ID] = ended.Proof.Again()
	}
	for _, f := range s.Failures {
		d := p.decided(f.Decision)
		if d == nil {
			return t, fmt.Errorf("%w: the decision that failed, %v, is not one of the turn before", ErrNotRecorded, f.Decision)
		}
		t.Failures = append(t.Failures, converge.Failure{Decision: d, Err: f.Err.Again()})
	}
	return t, nil
}

// decided returns the decision of the last turn that was recorded so.
func (p *player) decided(kept recording.Decision) converge.Decision {
	for _, d := range p.before {
		if d != nil && recording.NewDecision(d.Kind(), d).Equal(kept) {
			return d
		}
	}
	return nil
}

func (p *player) decide(t converge.Turn) (decisions []converge.Decision, err error) {
	defer panics.Catch(&err, "agent")
	if ticker, ok := p.agent.(converge.Ticker); ok {
		if err := ticker.OnTick(p.ctx); err != nil {
			return nil, err
		}
	}
	if decisions, err = p.agent.Decide(p.ctx, t); err != nil {
		return nil, err
	}
	if keeper, ok := p.agent.(converge.Checkpointer); ok {
		_, err = keeper.Checkpoint()
	}
	return decisions, err
}

// compare reports the first difference.
func (p *player) compare(seq uint64, kept *recording.Decided, decisions []converge.Decision, err error) error {
	then, now := text(kept.Err.Again()), text(err)
	if then != now {
		return p.differ(Difference{Turn: seq, Recorded: then, Got: now})
	}
	var got []recording.Decision
	for _, d := range decisions {
		if d != nil {
			got = append(got, recording.NewDecision(d.Kind(), d))
		}
	}
	for i := range max(len(got), len(kept.Decisions)) {
		d := Difference{Turn: seq, Number: i + 1}
		same := i < len(got) && i < len(kept.Decisions) && got[i].Equal(kept.Decisions[i])
		if i < len(got) {
			d.Got = got[i].String()
		}
		if i < len(kept.Decisions) {
			d.Recorded = kept.Decisions[i].String()
		}
		if !same {
			return p.differ(d)
		}
	}
	return nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return "error: " + err.Error()
}

func (p *player) differ(d Difference) error {
	p.sum.Difference = &d
	return errDiffers
}
