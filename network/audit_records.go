package network

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/llm"
)

// recordVerdict records what a policy, or somebody who was asked, said to a tool call; with sync: always, the call goes on
// when that is on the disk. It is the Record of an approval.Config.
func (n *Network) recordVerdict(v approval.Verdict) error {
	if n.audit == nil {
		return nil
	}
	r := verdictReceipt(v)
	seq, err := n.audit.Append(&r)
	if err == nil && n.auditConfig().Sync {
		err = n.audit.Sync(n.aborted, seq)
	}
	return err
}

func verdictReceipt(v approval.Verdict) audit.Receipt {
	r := audit.Receipt{
		Kind: audit.KindApproval, Subject: v.CallID, Action: v.Tool, Outcome: string(v.Outcome), Reason: describeVerdict(v), Taint: v.Taint,
	}
	r.Agent, _ = identity.ParseID(v.AgentID) // zero if it is none
	if v.Cause > 0 {
		r.Causes = []uint64{v.Cause}
	}
	if raw, err := hex.DecodeString(v.ParamsSHA256); err == nil && len(raw) == len(r.Input) {
		r.Input = [32]byte(raw)
	}
	if !v.Asked.IsZero() {
		r.Duration = max(v.Decided.Sub(v.Asked), 0)
	}
	return r
}

// describeVerdict says who or what decided, and why.
func describeVerdict(v approval.Verdict) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if v.By != "" {
		add("by %s", v.By)
	}
	if v.Claimed != "" {
		add("who says to be %s", v.Claimed)
	}
	if v.Rule > 0 {
		add("rule %d", v.Rule)
	}
	if v.Request != "" {
		add("request %s", v.Request)
	}
	text := strings.Join(parts, ", ")
	for _, why := range []string{v.Reason, v.Note} {
		if why != "" {
			text += ": " + why
		}
	}
	if v.Err != nil && v.Reason == "" && v.Note == "" {
		text += ": " + v.Err.Error()
	}
	return strings.TrimPrefix(text, ": ")
}

// recordExchanges returns what records the calls of an agent's model. It is the Record of an llm.Config; runtime
// returns the agent's runtime, or nil while there is none.
func recordExchanges(runtime func() *converge.Runtime) func(llm.Exchange) error {
	return func(e llm.Exchange) error {
		r := runtime()
		if r == nil {
			return nil
		}
		_, err := r.Record(exchangeReceipt(e))
		return err
	}
}

func exchangeReceipt(e llm.Exchange) audit.Receipt {
	r := audit.Receipt{
		Kind: audit.KindModel, Time: e.Started.Add(e.Duration), Subject: e.TaskID, Action: e.Model, Outcome: "ok",
		Input: e.Request, Output: e.Response, Taint: e.Taint.Labels(), Duration: max(e.Duration, 0),
		Reason:  fmt.Sprintf("conversation %s, attempt %d", e.Conversation, e.Attempt),
		Content: e.Content,
	}
	if e.Err != nil {
		r.Outcome, r.Reason = "failed", r.Reason+": "+e.Err.Error()
	}
	return r
}

// recordJournal returns what records what the turns of an agent with a model went by, for replays. It is the Journal of an
// llm.Config.
func recordJournal(model string, runtime func() *converge.Runtime) func([]byte) {
	return func(content []byte) {
		if r := runtime(); r != nil { // if the log is broken, the runtime carries out nothing of the turn
			_, _ = r.Record(audit.Receipt{
				Kind: audit.KindModel, Action: model, Outcome: "taken", Reason: "what a turn went by besides what it was shown", Content: content,
			})
		}
	}
}
