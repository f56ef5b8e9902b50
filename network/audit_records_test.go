package network

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/taint"
)

// TestVerdictsAreRecorded also has a network without a log.
func TestVerdictsAreRecorded(t *testing.T) {
	agent, err := identity.FromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := config.Parse("c.yaml", []byte("network: n\ntools: {t: {command: [cat]}}\nagents: [{name: w, kind: worker, capabilities: {t: t}, tools: [t]}]\n"),
		config.Options{Set: map[string]string{"data": dir}})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(t.Context(), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	params := sha256.Sum256([]byte("{}"))
	asked := time.Unix(1000, 0)
	n.recordVerdict(approval.Verdict{
		Outcome: approval.DeniedBy, Request: "q-1", AgentID: agent.ID().String(), Tool: "t", ParamsSHA256: hex.EncodeToString(params[:]),
		Taint: []string{"peer:x"}, CallID: "c-1", Cause: 1, Rule: 2, By: "uid 1000", Note: "not today", Asked: asked, Decided: asked.Add(time.Minute),
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	var got []audit.Entry
	if _, err := audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
		if e.Kind == audit.KindApproval {
			got = append(got, *e)
		}
		return nil
	}}, c.AuditDir(dir)); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 {
		t.Fatalf("%d receipts of approvals", len(got))
	}
	r := got[0]
	if r.Agent != agent.ID() || r.Outcome != "denied" || r.Action != "t" || r.Subject != "c-1" || r.Input != params || len(r.Causes) != 1 ||
		r.Duration != time.Minute || r.Reason != "by uid 1000, rule 2, request q-1: not today" || len(r.Taint) != 1 {
		t.Errorf("%+v", r)
	}
	(&Network{}).recordVerdict(approval.Verdict{})
}

func TestExchangesWithModelsBecomeReceipts(t *testing.T) {
	e := llm.Exchange{
		Conversation: "task-1", TaskID: "task-1", Model: "clever-1", Attempt: 2, Request: [32]byte{1}, Response: [32]byte{2},
		Started: time.Unix(1000, 0), Duration: time.Second, Taint: taint.Of("peer:x"),
	}
	r := exchangeReceipt(e)
	if r.Kind != audit.KindModel || r.Outcome != "ok" || r.Action != "clever-1" || r.Subject != "task-1" || r.Input != e.Request ||
		r.Output != e.Response || !r.Time.Equal(time.Unix(1001, 0)) || r.Reason != "conversation task-1, attempt 2" {
		t.Errorf("%+v", r)
	}
	e.Err = errors.New("overloaded")
	if r := exchangeReceipt(e); r.Outcome != "failed" || r.Reason != "conversation task-1, attempt 2: overloaded" {
		t.Errorf("%+v", r)
	}
	recordExchanges(func() *converge.Runtime { return nil })(e) // before there is a runtime
}
