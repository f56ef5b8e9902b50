package converge

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/message"
)

// decided records a turn. Turns in which nothing came and nothing was decided leave no trace.
func (t *trail) decided(turn *Turn, decisions []Decision, took time.Duration, err error) {
	if t == nil {
		return
	}
	t.turn = 0
	t.causes = append(t.causes, t.takeOwn()...)
	if turn.isEmpty() && len(decisions)+len(t.causes) == 0 && err == nil && !t.Content {
		return
	}
	r := audit.Receipt{Kind: audit.KindTurn, Outcome: "decided", Causes: t.causes, Count: uint64(len(decisions)), Duration: max(took, 0)}
	if more := len(t.causes) - audit.MaxCauses; more > 0 {
		r.Reason = fmt.Sprintf("%d more causes; ", more)
	}
	if err != nil {
		r.Outcome, r.Reason = "failed", r.Reason+err.Error()
	}
	if t.Content {
		r.Content = t.shown.encode(decisions, err)
	}
	t.turn = t.add(&r)
}

// outcomes records what became of decisions that were carried out together; errs is nil if all is well.
func (t *trail) outcomes(decisions []Decision, errs []error) {
	if t == nil {
		return
	}
	for i, d := range decisions {
		var err error
		if errs != nil {
			err = errs[i]
		}
		t.outcome(d, i, err)
	}
	t.forget()
}

// noted returns the decision to send a message with a place for the message's ID, and others as they are.
func (t *trail) noted(d Decision) Decision {
	send, ok := d.(SendMessage)
	if t == nil || !ok {
		return d
	}
	t.sent = append(t.sent[:0], message.ID{})
	send.Draft.Signed = &t.sent[0]
	return send
}

// outcome records what became of a decision; i is its place among those that were carried out together.
func (t *trail) outcome(d Decision, i int, err error) {
	if d == nil {
		return
	}
	r := t.describe(d, i)
	switch {
	case err != nil:
		r.Outcome, r.Reason = "failed", err.Error()
	case isInvoke(d): // recorded before it began
		return
	}
	seq := t.add(&r)
	switch d := d.(type) {
	case ClaimTask:
		remember(t.claims, d.TaskID, seq, err, MaxHeldClaims)
	case SubmitTask:
		remember(t.submitted, r.Subject, seq, err, MaxOutstandingTasks)
	}
	if err != nil && seq > 0 && len(t.failed) < audit.MaxCauses {
		t.failed = append(t.failed, seq)
	}
}

// spoke records a message that the process has sent in the agent's name. It may be called at any time.
func (t *trail) spoke(d *message.Draft, err error) {
	if t == nil {
		return
	}
	r := audit.Receipt{Kind: audit.KindDecision, Action: SendMessage{}.Kind(), Outcome: "done"}
	sent(&r, d)
	if !d.Signed.IsZero() {
		r.Subject = d.Signed.String()
	}
	if err != nil {
		r.Outcome, r.Reason = "failed", err.Error()
	}
	t.add(&r)
}

// sent puts down what there is to say of a message that goes out.
func sent(r *audit.Receipt, d *message.Draft) {
	r.Peer, r.Input, r.Reason = d.To, sha256.Sum256(d.Body), joinTopics(d.Topics)
}

func isInvoke(d Decision) bool {
	_, ok := d.(InvokeTool)
	return ok
}

// remember notes a receipt that something later will be caused by. Without room, the link is missing.
func remember(receipts map[string]uint64, id string, seq uint64, err error, most int) {
	if err == nil && seq > 0 && len(receipts) < most {
		receipts[id] = seq
	}
}

// describe returns the receipt of a decision that was carried out.
func (t *trail) describe(d Decision, i int) audit.Receipt {
	r := audit.Receipt{Kind: audit.KindDecision, Action: d.Kind(), Outcome: "done", Causes: some(t.turn)}
	switch d := d.(type) {
	case SendMessage:
		sent(&r, &d.Draft)
		if i < len(t.sent) && !t.sent[i].IsZero() {
			r.Subject = t.sent[i].String()
		}
	case SubmitTask:
		r.Subject, r.Input, r.Reason = d.Spec.ID, sha256.Sum256(d.Spec.Params), d.Spec.Kind
		if r.Subject == "" && i < len(t.names) {
			r.Subject = t.names[i]
		}
	case ClaimTask:
		r.Subject = d.TaskID
	case ReportTask:
		r.Subject, r.Output = d.TaskID, sha256.Sum256(d.Result)
	case FailTask:
		r.Subject, r.Output = d.TaskID, sha256.Sum256([]byte(d.Reason))
	case CancelTask:
		r.Subject = d.TaskID
	case RenewClaim:
		r.Subject = d.TaskID
	case InvokeTool:
		r.Subject, r.Input, r.Reason = d.CallID, sha256.Sum256(d.Params), d.Tool
	case JoinPool:
		r.Subject = d.Pool
	case LeavePool:
		r.Subject = d.Pool
	case CreatePool:
		r.Subject = d.Pool
	}
	return r
}

// named notes the ID of a task that is submitted without one.
func (t *trail) named(i int, id string) {
	if t == nil {
		return
	}
	for len(t.names) <= i {
		t.names = append(t.names, "")
	}
	t.names[i] = id
}

// forget forgets what was noted of those that were carried out together.
func (t *trail) forget() {
	clear(t.names)
	t.sent, t.names = t.sent[:0], t.names[:0]
}

// note has the ID of each message that is signed of drafts be known.
func (t *trail) note(drafts []message.Draft) {
	if t == nil {
		return
	}
	if cap(t.sent) < len(drafts) {
		t.sent = make([]message.ID, 0, maxTogether)
	}
	t.sent = t.sent[:len(drafts)]
	clear(t.sent)
	for i := range drafts {
		drafts[i].Signed = &t.sent[i]
	}
}
