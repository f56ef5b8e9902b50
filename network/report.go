package network

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

// Report is what a network has done. Its JSON form is part of the command's interface.
type Report struct {
	Network     string        `json:"network"`
	Agents      int           `json:"agents"`
	Tasks       TaskReport    `json:"tasks"`
	Messages    MessageReport `json:"messages"`
	Tools       ToolReport    `json:"tools"`
	RateLimited LimitReport   `json:"rate_limited"`
	ElapsedMS   int64         `json:"elapsed_ms"`
	Table       [][]string    `json:"-"` // the first row is the heading
	Errors      []string      `json:"-"` // one line for each task that failed, at most maxErrors
	Unfinished  int           `json:"-"` // tasks that had not ended
}

// TaskReport counts tasks. Those that count as completed have a valid signed statement.
type TaskReport struct {
	Submitted int `json:"submitted"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
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

// Report returns what has been done so far. Call it when Run has returned, or has not been called.
func (n *Network) Report() Report {
	s := n.metrics.Stats()
	p := n.sum()
	r := Report{
		Network:     n.config.Network,
		Agents:      len(n.members),
		Tasks:       TaskReport{p.Submitted, p.Completed, p.Failed},
		Messages:    MessageReport{s.Signed, s.Verified, occurred(s.Refused)},
		Tools:       ToolReport{s.Tools.Run, s.Tools.Denied, s.Tools.TimedOut},
		RateLimited: LimitReport{total(s.Ingress), total(s.Egress)},
		Unfinished:  p.Total - p.Completed - p.Failed,
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

// addOutcomes fills in the table: a row for each subject, a column for each sort of task.
func (n *Network) addOutcomes(r *Report) {
	if len(n.work.cells) == 0 {
		return
	}
	names := map[identity.ID]string{}
	for _, m := range n.members {
		names[m.id] = m.name
	}
	results := map[cell]string{}
	agents := map[string][]string{}
	for _, m := range n.members {
		if m.coordinator == nil {
			continue
		}
		for _, o := range m.coordinator.Outcomes() {
			if o.Task.ID == "" {
				continue // has not ended
			}
			c := n.work.cells[o.Task.ID]
			results[c] = printable(resultOf(o.Task, o.Err))
			if o.Err != nil && len(r.Errors) < maxErrors {
				r.Errors = append(r.Errors, printable(fmt.Sprintf("%s %s: %v", c.column, c.row, o.Err)))
			}
			if name := names[o.Task.Claimant]; name != "" && !slices.Contains(agents[c.row], name) {
				agents[c.row] = append(agents[c.row], name)
			}
		}
	}
	r.Table = append(r.Table, append(append([]string{"subject"}, n.work.columns...), "agents"))
	for _, row := range n.work.rows {
		line := []string{printable(row)}
		for _, column := range n.work.columns {
			line = append(line, cmp.Or(results[cell{row, column}], "-"))
		}
		r.Table = append(r.Table, append(line, strings.Join(agents[row], " ")))
	}
}

func resultOf(t task.Task, err error) string {
	if err != nil {
		return "FAILED"
	}
	return string(t.Result)
}

// printable keeps what tools and file names hold from breaking the table or the terminal.
func printable(s string) string {
	const most = 120
	s = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-1]) + "…"
	}
	return s
}

// Write prints the report for people: the table, then the summary.
func (r Report) Write(w io.Writer) error {
	if len(r.Table) > 0 {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range r.Table {
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	_, err := fmt.Fprintf(w, `network %s: %d agents, %.1f s
tasks      %d submitted, %d completed, %d failed
messages   %d signed, %d verified, %s
tools      %d run, %d denied, %d timed out
limited    %d in, %d out
`,
		r.Network, r.Agents, float64(r.ElapsedMS)/1000,
		r.Tasks.Submitted, r.Tasks.Completed, r.Tasks.Failed,
		r.Messages.Sent, r.Messages.Verified, describeRejected(r.Messages.Rejected),
		r.Tools.Run, r.Tools.Denied, r.Tools.TimedOut,
		r.RateLimited.Ingress, r.RateLimited.Egress)
	return err
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
