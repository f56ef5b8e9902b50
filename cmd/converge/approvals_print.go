package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/converge-agents/converge/approval"
)

func printApprovals(w io.Writer, all []approval.Request, f format) error {
	if f == "json" {
		return printJSON(w, all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tAGENT\tTOOL\tSTATE\tWAITS\tLEFT\tTAINTED")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, visible(r.Agent), visible(r.Tool), r.State,
			roughly(time.Since(r.Asked)), roughly(time.Until(r.Expires)), yes(len(r.Taint) > 0))
	}
	return table.Flush()
}

// roughly is a duration to the second, never below 0.
func roughly(d time.Duration) string { return max(d, 0).Round(time.Second).String() }

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func printApproval(w io.Writer, r approval.Request, f format) error {
	if f == "json" {
		return printJSON(w, r)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s"+format+"\n", append([]any{name}, args...)...)
	}
	line("id", "%s", r.ID)
	line("state", "%s", r.State)
	line("agent", "%s %s", visible(r.Agent), visible(r.AgentID))
	line("tool", "%s", visible(r.Tool))
	if r.Description != "" {
		line("description", "%s", visible(r.Description))
	}
	line("hints", "destructive %s, read-only %s, open world %s", yes(r.Destructive), yes(r.ReadOnly), yes(r.OpenWorld))
	if r.TaskID != "" {
		line("task", "%s", visible(r.TaskID))
	}
	line("taint", "%s", visible(cmp.Or(strings.Join(r.Taint, ", "), "none")))
	line("rule", "%d: %s", r.Rule, visible(r.Reason))
	line("asked", "%s", stamp(r.Asked))
	line("until", "%s", stamp(r.Expires))
	if !r.Decided.IsZero() {
		line("decided", "%s by %s", stamp(r.Decided), visible(cmp.Or(r.By, "somebody")))
	}
	if r.Claimed != "" {
		line("as", "%s (claimed)", visible(r.Claimed))
	}
	if r.Note != "" {
		line("note", "%s", visible(r.Note))
	}
	line("params", "%d bytes, SHA-256 %s", r.ParamsSize, r.ParamsSHA256)
	b.WriteString(visible(r.Params) + "\n")
	if r.ParamsCut {
		b.WriteString("(long texts are cut: this is not all)\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printDecision(w io.Writer, r approval.Request, f format) error {
	if f == "json" {
		return printJSON(w, r)
	}
	_, err := fmt.Fprintf(w, "%s: %s of %s is %s\n", r.ID, visible(r.Tool), visible(r.Agent), r.State)
	return err
}

// visible writes what would not show, or would change how other text shows, as JSON does: \uXXXX.
func visible(text string) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case unicode.IsPrint(c) && c != unicode.ReplacementChar:
			b.WriteRune(c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}
