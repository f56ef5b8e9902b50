package converge

import (
	"bytes"
	"context"

	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/message"
)

// What is recorded in receipts where AuditConfig.Content is set; package replay reads it.

func encodeMessage(m *message.Message) []byte {
	kept := recording.Message{Raw: m.Raw()}
	if plain, err := message.ParseUnsafe(m.Raw()); err != nil || !bytes.Equal(plain.Body(), m.Body()) || plain.ContentType() != m.ContentType() {
		kept.Body, kept.Type = m.Body(), m.ContentType()
	}
	return recording.Encode(kept)
}

func encodeResult(r *ToolResult) []byte {
	return recording.Encode(recording.Result{
		CallID: r.CallID, Tool: r.Tool, TaskID: r.TaskID, Taint: r.Taint.Labels(), Data: r.Output.Data,
		ContentType: r.Output.ContentType, Err: recording.NewError(r.Err), Duration: r.Duration,
	})
}

// shown is what a turn shows, as far as only the trail knows.
type shown struct {
	messages, results []uint64 // receipts
	proofs            []error  // what is wrong with the signatures of those who ended tasks
	turn              []byte   // the record of the turn
}

// show records a turn before the agent sees it, which may change what it is shown.
func (t *trail) show(turn *Turn) {
	if t == nil || !t.Content {
		return
	}
	kept := recording.Turn{
		Began: turn.Began, Messages: t.shown.messages, Results: t.shown.results, Tasks: turn.Tasks, Claimed: turn.Claimed,
		Pools: turn.Pools, Draining: turn.Draining,
	}
	for i, ended := range turn.Ended {
		kept.Ended = append(kept.Ended, recording.Ended{Task: ended, Proof: recording.NewError(t.shown.proofs[i])})
	}
	for _, f := range turn.Failures {
		d := recording.NewDecision(f.Decision.Kind(), f.Decision)
		kept.Failures = append(kept.Failures, recording.Failure{Decision: d, Err: recording.NewError(f.Err)})
	}
	t.shown.turn = recording.Encode(kept)
}

func (s *shown) encode(decisions []Decision, err error) []byte {
	kept := recording.Decided{Turn: s.turn, Err: recording.NewError(err)}
	for _, d := range decisions {
		if d != nil {
			kept.Decisions = append(kept.Decisions, recording.NewDecision(d.Kind(), d))
		}
	}
	return recording.Encode(kept)
}

// recordStart records that the agent has started, and with AuditConfig.Content from which state.
func (r *Runtime) recordStart(ctx context.Context) (err error) {
	if r.trail == nil {
		return nil
	}
	var s recording.Start
	if r.trail.Content {
		if s, err = r.begin(ctx); err != nil {
			return err
		}
	}
	return r.trail.started(r.config.Name, s)
}

// begin returns the state of an agent that keeps one, as it is before the first turn. It is saved, since the agent
// takes it for saved.
func (r *Runtime) begin(ctx context.Context) (s recording.Start, err error) {
	if r.states != nil {
		err = r.states.save(ctx)
		return recording.Start{Restored: r.states.found, Begun: r.states.saved}, err
	}
	if c, ok := r.config.Agent.(Checkpointer); ok {
		s.Begun, err = askState(c)
	}
	return s, err
}
