package network

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
)

// Report is what a network has done. Its JSON form is part of the command's interface.
type Report struct {
	Network     string        `json:"network"`
	Agents      int           `json:"agents"`
	Tasks       TaskReport    `json:"tasks"`
	Work        WorkReport    `json:"work"`
	Messages    MessageReport `json:"messages"`
	Tools       ToolReport    `json:"tools"`
	RateLimited LimitReport   `json:"rate_limited"`
	Transport   FrameReport   `json:"transport,omitzero"` // if it reaches other processes
	Audit       AuditReport   `json:"audit,omitzero"`     // if receipts are kept
	ElapsedMS   int64         `json:"elapsed_ms"`
	Table       [][]string    `json:"-"` // the first row is the heading
	Errors      []string      `json:"-"` // one line for each task that failed, the first 20
	Unfinished  int           `json:"-"` // tasks that had not ended
}

// TaskReport counts the tasks of this process's coordinators, whoever did them. Those that count as
// completed are signed by the agents that did them.
type TaskReport struct {
	Submitted int `json:"submitted"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// WorkReport counts what this process's workers have done, whoever submitted it.
type WorkReport struct {
	Claimed  uint64 `json:"claimed"`
	Reported uint64 `json:"reported"`
	Failed   uint64 `json:"failed"`
}

// FrameReport counts what went between processes.
type FrameReport struct {
	Name    string            `json:"name"`
	In      uint64            `json:"frames_in"`
	Out     uint64            `json:"frames_out"`
	Lost    uint64            `json:"lost"`
	Refused map[string]uint64 `json:"refused"` // connections and frames by reason; only those that occurred
}

// MessageReport counts messages, over all agents.
type MessageReport struct {
	Sent     uint64            `json:"sent"`
	Verified uint64            `json:"verified"`
	Rejected map[string]uint64 `json:"rejected"` // by reason; only those that occurred
}

// ToolReport counts tool calls, over all agents.
type ToolReport struct {
	Run      uint64 `json:"run"`
	Denied   uint64 `json:"denied"`
	TimedOut uint64 `json:"timed_out"`
}

// LimitReport counts messages that rate limits refused, over all agents.
type LimitReport struct {
	Ingress uint64 `json:"ingress"`
	Egress  uint64 `json:"egress"`
}

const maxErrors = 20

// Report returns what has been done so far. Call it when Run has returned, or has not been called; it
// may be called after Close.
func (n *Network) Report() Report {
	s := n.metrics.Stats()
	p := n.Progress()
	r := Report{
		Network:     n.config.Network,
		Agents:      len(n.members),
		Tasks:       TaskReport{p.Submitted, p.Completed, p.Failed},
		Messages:    MessageReport{s.Signed, s.Verified, occurred(s.Refused)},
		Tools:       ToolReport{s.Tools.Run, s.Tools.Denied, s.Tools.TimedOut},
		RateLimited: LimitReport{total(s.Ingress), total(s.Egress)},
		Transport:   n.frameReport(),
		Audit:       n.auditReport(),
		Unfinished:  p.Total - p.Completed - p.Failed,
		Work: WorkReport{
			Claimed:  s.Decisions[converge.ClaimTask{}.Kind()].Done,
			Reported: s.Decisions[converge.ReportTask{}.Kind()].Done,
			Failed:   s.Decisions[converge.FailTask{}.Kind()].Done,
		},
	}
	if !n.started.IsZero() {
		end := n.ended
		if end.IsZero() {
			end = time.Now()
		}
		r.ElapsedMS = end.Sub(n.started).Milliseconds()
	}
	n.addOutcomes(&r)
	return r
}

func (n *Network) frameReport() FrameReport {
	if n.config.TransportKind() == config.TransportLocal {
		return FrameReport{}
	}
	t := n.metrics.Transport()
	return FrameReport{n.config.TransportKind(), t.FramesIn, t.FramesOut, t.Lost, occurred(t.Refused)}
}

func occurred(counts map[string]uint64) map[string]uint64 {
	counts = maps.Clone(counts)
	maps.DeleteFunc(counts, func(_ string, n uint64) bool { return n == 0 })
	return counts
}

func total(counts map[string]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// addOutcomes fills in the table, a row for each subject and a column for each sort of task, and the
// errors.
func (n *Network) addOutcomes(r *Report) {
	if len(n.work.cells) == 0 {
		return
	}
	results := map[cell]string{}
	agents := map[string][]string{}
	for _, m := range n.members {
		if m.coordinator == nil {
			continue
		}
		for i, o := range m.coordinator.Outcomes() {
			if o.Task.ID == "" {
				continue // has not ended
			}
			c := n.work.cells[m.name][i]
			results[c] = resultOf(o)
			if o.Err != nil && len(r.Errors) < maxErrors {
				r.Errors = append(r.Errors, errorLine(c, o))
			}
			name := n.names[o.Task.Claimant]
			if name == "" && !o.Task.Claimant.IsZero() {
				name = o.Task.Claimant.Short() // an agent that only discovery knows
			}
			if name != "" && !slices.Contains(agents[c.row], name) {
				agents[c.row] = append(agents[c.row], name)
			}
		}
	}
	r.Table = append(r.Table, append(append([]string{n.work.heading()}, n.work.columns...), "agents"))
	for _, row := range n.work.rows {
		line := []string{printable(row, maxCell)}
		for _, column := range n.work.columns {
			line = append(line, cmp.Or(results[cell{row, column}], "-"))
		}
		slices.Sort(agents[row])
		r.Table = append(r.Table, append(line, strings.Join(agents[row], " ")))
	}
}

func resultOf(o role.Outcome) string {
	if o.Err != nil {
		return "FAILED"
	}
	return printable(string(o.Task.Result), maxCell)
}

// errorLine says what was to be done, and why it was not.
func errorLine(c cell, o role.Outcome) string {
	what, why := c.row, o.Err.Error()
	if c.column != resultColumn {
		what = c.column + " of " + strconv.Quote(c.row)
	}
	if o.Task.Status == task.Failed && o.Task.Error != "" {
		why = o.Task.Error
	}
	return printable(what+": "+why, maxErrorLine)
}

// Bounds of what is shown, in characters.
const (
	maxCell      = 120
	maxErrorLine = 500
)

// printable keeps what tools and file names hold from breaking the table or the terminal: characters
// that would are escaped as in Go, and long text is cut.
func printable(s string, most int) string {
	var b strings.Builder
	for n := 0; s != ""; n++ {
		if n == most {
			b.WriteString("…")
			break
		}
		c, size := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(c) && (c != utf8.RuneError || size > 1) {
			b.WriteRune(c)
		} else {
			escaped := strconv.Quote(s[:size])
			b.WriteString(escaped[1 : len(escaped)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// Write prints the report for people: the table, then the summary. It writes all of it at once.
func (r Report) Write(w io.Writer) error {
	var text bytes.Buffer // cannot fail
	if len(r.Table) > 0 {
		table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		for _, row := range r.Table {
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		table.Flush()
		fmt.Fprintln(&text)
	}
	fmt.Fprintf(&text, `network %s: %s, %v
tasks      %d submitted, %d completed, %d failed
messages   %d signed, %d verified, %s
tools      %d run, %d denied, %d timed out
limited    %d in, %d out
`,
		r.Network, agents(r.Agents), time.Duration(r.ElapsedMS)*time.Millisecond,
		r.Tasks.Submitted, r.Tasks.Completed, r.Tasks.Failed,
		r.Messages.Sent, r.Messages.Verified, describeRejected(r.Messages.Rejected),
		r.Tools.Run, r.Tools.Denied, r.Tools.TimedOut,
		r.RateLimited.Ingress, r.RateLimited.Egress)
	r.writeShared(&text)
	if r.Audit != (AuditReport{}) {
		text.WriteString(r.Audit.line())
	}
	_, err := w.Write(text.Bytes())
	return err
}

// writeShared adds what only concerns those who work with other processes.
func (r Report) writeShared(text *bytes.Buffer) {
	if r.Transport.Name == "" {
		return
	}
	fmt.Fprintf(text, "work       %d claimed, %d reported, %d failed\n", r.Work.Claimed, r.Work.Reported, r.Work.Failed)
	fmt.Fprintf(text, "%-10s %d frames in, %d out, %d lost, %s\n",
		r.Transport.Name, r.Transport.In, r.Transport.Out, r.Transport.Lost, describeRejected(r.Transport.Refused))
}

func agents(n int) string {
	if n == 1 {
		return "1 agent"
	}
	return fmt.Sprintf("%d agents", n)
}

func describeRejected(rejected map[string]uint64) string {
	text := fmt.Sprintf("%d refused", total(rejected))
	if len(rejected) == 0 {
		return text
	}
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(rejected)) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, rejected[reason]))
	}
	return text + " (" + strings.Join(reasons, ", ") + ")"
}
