package audit_test

import (
	"slices"
	"testing"

	"github.com/converge-agents/converge/audit"
)

var wide = audit.Bounds{Receipts: 100, Steps: 100}

func TestTraceFollowsCausesUpAndDown(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	l := open(t, c) // receipt 1
	turn := add(t, l, audit.Receipt{Kind: audit.KindTurn})
	came := add(t, l, audit.Receipt{Kind: audit.KindMessage, Subject: "m"}) // before its sender says that it was sent
	sent := add(t, l, audit.Receipt{Kind: audit.KindDecision, Action: "send_message", Subject: "m", Causes: []uint64{turn}})
	other := add(t, l, audit.Receipt{Kind: audit.KindDecision, Action: "send_message", Subject: "n", Causes: []uint64{turn}})
	answer := add(t, l, audit.Receipt{Kind: audit.KindTurn, Causes: []uint64{came}})
	call := add(t, l, audit.Receipt{Kind: audit.KindCall, Subject: "c", Causes: []uint64{answer}})
	l.Close()

	nodes, more, err := audit.Trace(audit.Check{}, func(e *audit.Entry) bool { return e.Seq == answer }, wide, c.Dir)
	if err != nil || more != 0 {
		t.Fatal(more, err)
	}
	if nodes, more, err := audit.Trace(audit.Check{}, func(e *audit.Entry) bool { return e.Seq == answer }, audit.Bounds{Receipts: 100, Steps: 1}, c.Dir); err != nil || len(nodes) != 3 || more != 2 {
		t.Errorf("one step away: %d and %d more, %v", len(nodes), more, err)
	}
	var seqs []uint64
	for _, n := range nodes {
		seqs = append(seqs, n.Seq)
		if n.Match != (n.Seq == answer) {
			t.Errorf("receipt %d matches: %t", n.Seq, n.Match)
		}
	}
	if want := []uint64{turn, came, sent, answer, call}; !slices.Equal(seqs, want) {
		t.Errorf("the trace has %v, want %v, and not %d", seqs, want, other)
	}
	if i := slices.IndexFunc(nodes, func(n audit.Node) bool { return n.Seq == came }); !slices.Equal(nodes[i].Causes, []uint64{sent}) || !slices.Equal(nodes[i].Effects, []uint64{answer}) {
		t.Errorf("the message: %+v", nodes[i])
	}
	if nodes, more, err := audit.Trace(audit.Check{}, func(e *audit.Entry) bool { return e.Seq == answer }, audit.Bounds{Receipts: 3, Steps: 100}, c.Dir); err != nil || len(nodes) != 3 || more != 2 {
		t.Errorf("with room for 3: %d and %d more, %v", len(nodes), more, err)
	}
	if nodes, _, err := audit.Trace(audit.Check{}, func(e *audit.Entry) bool { return false }, wide, c.Dir); err != nil || len(nodes) != 0 {
		t.Errorf("nothing matches: %v, %v", nodes, err)
	}
}
