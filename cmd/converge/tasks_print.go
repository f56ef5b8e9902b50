package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/converge-agents/converge/control"
)

// printJSON prints a value as JSON in one line. What a terminal could take for a command is escaped, which changes nothing
// of what the JSON says.
func printJSON(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, visible(string(text)))
	return err
}

// lineReason is how many bytes of a reason are in a line of a list.
const lineReason = 80

func printTasks(w io.Writer, page control.TaskPage, f format) error {
	if f == "json" {
		return printJSON(w, page)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tPRIORITY\tATTEMPTS\tWORKER\tAGE\tREASON")
	for _, t := range page.Tasks {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", visible(t.ID), taskState(t), t.Priority, attempts(t),
			visible(cmp.Or(t.Worker, "-")), ago(t.Created), visible(brief(t.Reason, t.ReasonCut, lineReason)))
	}
	return table.Flush()
}

func taskState(t control.Task) string {
	if t.DeadLetter {
		return control.Dead
	}
	return visible(t.State)
}

func attempts(t control.Task) string {
	if t.MaxAttempts == 0 {
		return fmt.Sprint(t.Attempts)
	}
	return fmt.Sprintf("%d/%d", t.Attempts, t.MaxAttempts)
}

// brief returns so many characters of a text.
func brief(text string, cut bool, most int) string {
	if runes := []rune(text); len(runes) > most {
		text, cut = string(runes[:most]), true
	}
	if cut {
		text += "…"
	}
	return text
}

func printTask(w io.Writer, t control.TaskDetail, f format) error {
	if f == "json" {
		return printJSON(w, t)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s"+format+"\n", append([]any{name}, args...)...)
	}
	text := func(name, value string) {
		if value != "" {
			line(name, "%s", visible(value))
		}
	}
	at := func(name string, moment time.Time) {
		if !moment.IsZero() {
			line(name, "%s", stamp(moment))
		}
	}
	text("id", t.ID)
	line("state", "%s", taskState(t.Task))
	text("kind", t.Kind)
	line("priority", "%d", t.Priority)
	line("attempts", "%s, %d claims", attempts(t.Task), t.Epoch)
	line("submitter", "%s %s", visible(t.Submitter), visible(t.SubmitterID))
	if t.WorkerID != "" {
		line("worker", "%s %s", visible(t.Worker), visible(t.WorkerID))
	}
	text("asks for", strings.Join(t.Capabilities, ", "))
	text("topic", t.Topic)
	text("pool", t.Pool)
	text("key", t.IdempotencyKey)
	at("submitted", t.Created)
	at("changed", t.Changed)
	at("not before", t.NotBefore)
	at("ready", t.Ready)
	at("claimed to", t.ClaimExpires)
	line("claim ttl", "%s", t.ClaimTTL)
	at("deadline", t.Deadline)
	if t.Reason != "" {
		line("reason", "%s", visible(brief(t.Reason, t.ReasonCut, len(t.Reason))))
	}
	writeContent(&b, "params", t.Params)
	if t.Result != nil {
		writeContent(&b, "result", *t.Result)
	}
	if t.Worker != "" && t.State != "assigned" {
		line("signed", "%s", yes(t.Signed))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeContent(b *strings.Builder, name string, c control.Content) {
	fmt.Fprintf(b, "%-12s%d bytes, SHA-256 %s, %s\n", name, c.Size, visible(c.SHA256), visible(cmp.Or(c.Type, "of no type")))
	switch {
	case c.Binary:
		b.WriteString("(no text)\n")
	default:
		b.WriteString(visible(c.Text) + "\n")
	}
	if c.Cut {
		b.WriteString("(long texts are cut: this is not all)\n")
	}
}

func printChanged(w io.Writer, t control.Task, f format) error {
	if f == "json" {
		return printJSON(w, t)
	}
	_, err := fmt.Fprintf(w, "%s: %s is %s\n", visible(t.ID), visible(t.Kind), taskState(t))
	return err
}
