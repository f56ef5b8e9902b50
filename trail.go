package converge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// ErrAudit says that an act cannot be recorded, so that it was not done.
var ErrAudit = errors.New("the act cannot be recorded, so it is not done")

// AuditConfig says what an agent's receipts are to be.
type AuditConfig struct {
	// Log is where they go, and whose health the agent's acts depend on: while receipts cannot be written, decisions
	// fail with [ErrAudit]. nil means that there are none.
	Log *audit.Log
	// Content also records, in full, what the agent is shown and what it decides, so that package replay can have it
	// decide again. It MAY HOLD SECRETS, and takes as much room as all that the agent reads.
	Content bool
	// Sync has each tool call wait until the receipt of its beginning is on the disk.
	Sync bool
}

// trail writes the receipts of one agent. A nil trail writes none.
type trail struct {
	AuditConfig
	agent    identity.ID
	out      *slog.Logger
	endings  *task.Verifier
	refusals refusals

	mu      sync.Mutex
	waiting map[message.ID]uint64 // receipts of the messages in the inbox
	own     []uint64              // receipts by Runtime.Record, since the last turn

	// Run's goroutine only.
	causes    []uint64 // receipts of what the next turn shows
	turn      uint64   // receipt of the current turn
	failed    []uint64 // receipts of the decisions that have failed in it
	claims    map[string]uint64
	submitted map[string]uint64
	sent      []message.ID // of the messages that go out together
	names     []string     // of the tasks that are submitted together
	shown     shown
}

func newTrail(c *Config, log *slog.Logger) (*trail, error) {
	if c.Audit.Log == nil {
		return nil, nil
	}
	endings, err := task.NewVerifier(c.Registry, c.Network)
	if err != nil {
		return nil, err
	}
	t := &trail{
		AuditConfig: c.Audit, agent: c.Identity.ID(), out: log, endings: endings,
		waiting: map[message.ID]uint64{}, claims: map[string]uint64{}, submitted: map[string]uint64{},
	}
	t.refusals.add = func(r *audit.Receipt) { t.add(r) }
	return t, nil
}

// add appends a receipt of the agent. It returns 0 if there is none.
func (t *trail) add(r *audit.Receipt) uint64 {
	seq, _ := t.try(r)
	return seq
}

func (t *trail) try(r *audit.Receipt) (uint64, error) {
	r.Agent = t.agent
	seq, err := t.Log.Append(r)
	if errors.Is(err, audit.ErrInvalid) && r.Content != nil { // it is too large to be recorded
		r.Content = nil
		r.Reason = "content too large to be recorded; " + r.Reason
		seq, err = t.Log.Append(r)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return seq, nil
}

// healthy reports why nothing can be done.
func (t *trail) healthy() error {
	if t == nil {
		return nil
	}
	if err := t.Log.Healthy(); err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return nil
}

// Record appends a receipt of the agent to its log, for what the agent does by other means than decisions: a
// model that it asks, say. It leads to the agent's next turn, or the one under way. Content is left out unless AuditConfig.Content is set;
// package replay hands it to replay.Config.Observe. Without a log it does nothing and returns 0. It is safe for concurrent use. Errors: [ErrAudit].
func (r *Runtime) Record(receipt audit.Receipt) (seq uint64, err error) {
	t := r.trail
	if t == nil {
		return 0, nil
	}
	if !t.Content {
		receipt.Content = nil
	}
	if seq, err = t.try(&receipt); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.own) < audit.MaxCauses {
		t.own = append(t.own, seq)
	}
	return seq, nil
}

// takeOwn returns the receipts that the agent has recorded itself.
func (t *trail) takeOwn() []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.own
	t.own = nil
	return own
}

// started records that the agent begins, and from where.
func (t *trail) started(name string, s recording.Start) error {
	if t == nil {
		return nil
	}
	r := audit.Receipt{Kind: audit.KindStart, Subject: name, Outcome: "ok"}
	if t.Content {
		r.Content = recording.Encode(s)
	}
	_, err := t.try(&r)
	return err
}

// stopped records the end of the agent.
func (t *trail) stopped(cause error) {
	if t == nil {
		return
	}
	t.refusals.close()
	r := audit.Receipt{Kind: audit.KindStop, Outcome: "ok"}
	if errors.Is(cause, errTransport) || errors.Is(cause, ErrSuperseded) {
		r.Outcome, r.Reason = "failed", cause.Error()
	}
	t.add(&r)
}

// accepted records a message on its way into the inbox.
func (t *trail) accepted(m *message.Message) {
	if t == nil {
		return
	}
	r := audit.Receipt{
		Kind: audit.KindMessage, Subject: m.ID().String(), Action: describeAudience(m), Outcome: "accepted",
		Peer: m.Sender(), Input: sha256.Sum256(m.Raw()),
	}
	if !m.Verified() {
		r.Outcome = "unverified"
	}
	if t.Content {
		r.Content = encodeMessage(m)
	}
	if seq := t.add(&r); seq > 0 {
		t.mu.Lock()
		t.waiting[m.ID()] = seq
		t.mu.Unlock()
	}
}

func describeAudience(m *message.Message) string {
	switch topics := m.Topics(); {
	case len(topics) > 1:
		return joinTopics(topics)
	case len(topics) == 1:
		return topics[0].String()
	case m.Broadcast():
		return "broadcast"
	}
	return "direct"
}

func joinTopics(topics []message.Topic) string {
	texts := make([]string, len(topics))
	for i, topic := range topics {
		texts[i] = topic.String()
	}
	return strings.Join(texts, " ")
}

// leave returns the receipt of a message that leaves the inbox.
func (t *trail) leave(m *message.Message) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	seq := t.waiting[m.ID()]
	delete(t.waiting, m.ID())
	return seq
}

// dropped records a message that was accepted and that the agent does not see.
func (t *trail) dropped(m *message.Message, why string) {
	if t == nil {
		return
	}
	seq := t.leave(m)
	t.refusals.note(why, audit.Receipt{Action: "inbox", Subject: m.ID().String(), Peer: m.Sender(), Causes: some(seq)})
}

// some returns the causes that there are.
func some(seqs ...uint64) (causes []uint64) {
	for _, seq := range seqs {
		if seq > 0 {
			causes = append(causes, seq)
		}
	}
	return causes
}

// gather takes in what the next turn shows. The ends of tasks get their receipts here.
func (t *trail) gather(turn *Turn) {
	if t == nil {
		return
	}
	t.causes = append(t.causes[:0], t.failed...)
	t.failed = t.failed[:0]
	t.shown = shown{}
	for _, m := range turn.Messages {
		seq := t.leave(m)
		t.causes = append(t.causes, some(seq)...)
		t.shown.messages = append(t.shown.messages, seq)
	}
	for i := range turn.Results {
		seq := turn.Results[i].receipt
		t.causes = append(t.causes, some(seq)...)
		t.shown.results = append(t.shown.results, seq)
	}
	for i := range turn.Claimed {
		t.causes = append(t.causes, some(t.claims[turn.Claimed[i].ID])...)
		delete(t.claims, turn.Claimed[i].ID)
	}
	for i := range turn.Ended {
		t.causes = append(t.causes, some(t.taskEnded(&turn.Ended[i]))...)
	}
	t.show(turn)
}

// taskEnded records how a task of the agent has ended.
func (t *trail) taskEnded(ended *task.Task) uint64 {
	r := audit.Receipt{
		Kind: audit.KindTask, Subject: ended.ID, Action: ended.Kind, Outcome: ended.Status.String(), Peer: ended.Claimant,
		Input: sha256.Sum256(ended.Params), Causes: some(t.submitted[ended.ID]), Reason: "not signed",
	}
	delete(t.submitted, ended.ID)
	if ended.Status == task.Completed {
		r.Output = sha256.Sum256(ended.Result)
	}
	proof := t.endings.VerifyEnding(ended)
	switch {
	case proof == nil:
		r.Reason = "signed by the agent that held it"
	case len(ended.ResultProof) > 0:
		r.Reason = "signature does not verify: " + proof.Error()
	}
	t.shown.proofs = append(t.shown.proofs, proof)
	return t.add(&r)
}
