package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
)

// auditFilter says which receipts are shown. Zero fields let all pass.
type auditFilter struct {
	agent, tool, outcome, subject string
	kinds                         []string
	since, until                  moment
}

func newAuditShow(f *auditFlags) *cobra.Command {
	var filter auditFilter
	cmd := &cobra.Command{
		Use:   "show FILE…",
		Short: "Print receipts",
		Long: `Show prints the receipts that pass all filters, one a line, in their order: number, time, agent, kind,
what it is about, how it ended, and the numbers of the receipts that led to it. With -o json each line is an object.
It verifies the files as it reads them, and stops with an error at the first record that is not as it was written.`,
		Example: `  converge audit show data/audit --agent worker-1 --since 10m
  converge audit show data/audit --kind refusal,approval -o json
  converge audit show data/audit --tool fs.write_file --outcome denied`,
		Args: files(),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := filter.check(); err != nil {
				return usageError(cmd, err)
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			err := showReceipts(out, f, &filter, given)
			return errors.Join(out.Flush(), err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.agent, "agent", "", "only of this agent: its `name`, or how its ID begins")
	flags.StringSliceVar(&filter.kinds, "kind", nil, "only of these `kinds`: "+strings.Join(kindNames(), ", "))
	flags.StringVar(&filter.tool, "tool", "", "only what is about this tool: its `name`, or how it begins if it ends in *")
	flags.StringVar(&filter.outcome, "outcome", "", "only with this `outcome`: accepted, refused, done, failed, ok, denied, timeout, …")
	flags.StringVar(&filter.subject, "subject", "", "only about this message, task or call: its `ID`")
	flags.Var(&filter.since, "since", "only from this `time` on: 2026-01-31T12:00:00Z, or 10m for ten minutes ago")
	flags.Var(&filter.until, "until", "only before this `time`")
	complete(cmd, "kind", kindNames()...)
	return cmd
}

func kindNames() (all []string) {
	for _, k := range audit.Kinds() {
		all = append(all, k.String())
	}
	return all
}

// moment is a flag for a point in time.
type moment struct{ time.Time }

func (m *moment) Type() string { return "time" }

func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

func (m *moment) Set(s string) error {
	if ago, err := time.ParseDuration(s); err == nil {
		m.Time = time.Now().Add(-ago)
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			m.Time = t
			return nil
		}
	}
	return errors.New(`want a time such as 2026-01-31T12:00:00Z or 2026-01-31, or a duration such as "10m"`)
}

func (f *auditFilter) check() error {
	for _, kind := range f.kinds {
		if _, err := audit.ParseKind(kind); err != nil {
			return fmt.Errorf("--kind: %w: there are %s", err, strings.Join(kindNames(), ", "))
		}
	}
	return nil
}

func (f *auditFilter) passes(e *audit.Entry, names agentNames) bool {
	return (f.agent == "" || names[e.Agent] == f.agent || len(f.agent) >= 4 && strings.HasPrefix(e.Agent.String(), f.agent)) &&
		(len(f.kinds) == 0 || slices.Contains(f.kinds, e.Kind.String())) &&
		(f.tool == "" || isAbout(e, f.tool)) &&
		(f.outcome == "" || e.Outcome == f.outcome) &&
		(f.subject == "" || e.Subject == f.subject) &&
		(f.since.IsZero() || !e.Time.Before(f.since.Time)) &&
		(f.until.IsZero() || e.Time.Before(f.until.Time))
}

// isAbout reports whether a receipt is about a tool.
func isAbout(e *audit.Entry, tool string) bool {
	name := e.Action
	switch e.Kind {
	case audit.KindCall, audit.KindResult, audit.KindApproval:
	case audit.KindDecision:
		if name = e.Reason; e.Action != "invoke_tool" {
			return false
		}
	default:
		return false
	}
	if prefix, ok := strings.CutSuffix(tool, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == tool
}

// agentNames are the names of agents, as the receipts of their starts tell them.
type agentNames map[identity.ID]string

func (n agentNames) learn(e *audit.Entry) {
	if e.Kind == audit.KindStart {
		n[e.Agent] = e.Subject
	}
}

func (n agentNames) of(id identity.ID) string {
	switch {
	case n[id] != "":
		return plain(n[id])
	case id.IsZero():
		return "-"
	}
	return id.Short()
}

func showReceipts(out io.Writer, f *auditFlags, filter *auditFilter, names []string) error {
	c, known := f.check(), agentNames{}
	c.Each = func(e *audit.Entry) error {
		if known.learn(e); !filter.passes(e, known) {
			return nil
		}
		if f.output == "json" {
			return json.NewEncoder(out).Encode(receiptOf(e, known))
		}
		_, err := fmt.Fprintln(out, describe(e, known))
		return err
	}
	_, err := audit.Verify(c, names...)
	return err
}

// describe returns a receipt in one line.
func describe(e *audit.Entry, names agentNames) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-6d %s %-12s %-8s", e.Seq, e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), names.of(e.Agent), e.Kind)
	for _, part := range []string{e.Action, e.Subject, e.Outcome} {
		if part != "" {
			b.WriteString(" " + plain(part))
		}
	}
	if e.Count > 0 {
		fmt.Fprintf(&b, " ×%d", e.Count)
	}
	if !e.Peer.IsZero() {
		b.WriteString(" peer=" + names.of(e.Peer))
	}
	if e.Duration > 0 {
		fmt.Fprintf(&b, " took=%s", e.Duration.Round(time.Microsecond))
	}
	if len(e.Causes) > 0 {
		b.WriteString(" from=" + numbers(e.Causes))
	}
	if len(e.Taint) > 0 {
		b.WriteString(" taint=" + plain(strings.Join(shortLabels(e.Taint, names), ",")))
	}
	if e.Reason != "" {
		b.WriteString(": " + plain(e.Reason))
	}
	return b.String()
}

// most is how many causes a line shows.
const most = 8

func numbers(seqs []uint64) string {
	var texts []string
	for i, seq := range seqs {
		if i == most {
			texts = append(texts, "…")
			break
		}
		texts = append(texts, strconv.FormatUint(seq, 10))
	}
	return strings.Join(texts, ",")
}

// shortLabels names the peers of taint labels.
func shortLabels(labels []string, names agentNames) []string {
	short := slices.Clone(labels)
	for i, label := range labels {
		if id, err := identity.ParseID(strings.TrimPrefix(label, "peer:")); err == nil {
			short[i] = "peer:" + names.of(id)
		}
	}
	return short
}

// plain keeps what is recorded from breaking lines or the terminal.
func plain(s string) string {
	if !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// receiptJSON is the JSON form of a receipt.
type receiptJSON struct {
	Seq       uint64       `json:"seq"`
	Time      time.Time    `json:"time"`
	Kind      audit.Kind   `json:"kind"`
	Agent     *identity.ID `json:"agent,omitempty"`
	AgentName string       `json:"agent_name,omitempty"`
	Causes    []uint64     `json:"causes,omitempty"`
	Subject   string       `json:"subject,omitempty"`
	Action    string       `json:"action,omitempty"`
	Outcome   string       `json:"outcome,omitempty"`
	Reason    string       `json:"reason,omitempty"`
	Peer      *identity.ID `json:"peer,omitempty"`
	PeerName  string       `json:"peer_name,omitempty"`
	Input     string       `json:"input,omitempty"`
	Output    string       `json:"output,omitempty"`
	Taint     []string     `json:"taint,omitempty"`
	Count     uint64       `json:"count,omitempty"`
	Duration  float64      `json:"seconds,omitempty"`
	Content   []byte       `json:"content,omitempty"`
	Hash      string       `json:"hash"`
	File      string       `json:"file"`
	Offset    int64        `json:"offset"`
	Match     bool         `json:"match,omitempty"`
}

func receiptOf(e *audit.Entry, names agentNames) receiptJSON {
	return receiptJSON{
		Seq: e.Seq, Time: e.Time, Kind: e.Kind, Agent: idOrNil(e.Agent), AgentName: names[e.Agent], Causes: e.Causes, Subject: e.Subject,
		Action: e.Action, Outcome: e.Outcome, Reason: e.Reason, Peer: idOrNil(e.Peer), PeerName: names[e.Peer],
		Input: hashOrNone(e.Input), Output: hashOrNone(e.Output), Taint: e.Taint, Count: e.Count, Duration: e.Duration.Seconds(),
		Content: e.Content, Hash: hex.EncodeToString(e.Hash[:]), File: e.File, Offset: e.Offset,
	}
}

func idOrNil(id identity.ID) *identity.ID {
	if id.IsZero() {
		return nil
	}
	return &id
}

func hashOrNone(h [32]byte) string {
	if h == ([32]byte{}) {
		return ""
	}
	return hex.EncodeToString(h[:])
}
