package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/converge-agents/converge/control"
)

// hostile is text that would clear a terminal, set its title, go back on a line, or change the order of what is read. The
// last but one is a control character of one code point above ASCII.
const hostile = "a\x1b[2J\x1b]0;owned\a\rb\u202ec\u2066\u200b\u009b31m\x7f\nline"

func hostileTask() control.TaskDetail {
	t := control.Task{
		ID: hostile, Kind: hostile, State: hostile, Worker: hostile, WorkerID: hostile, Submitter: hostile, SubmitterID: hostile,
		Pool: hostile, Reason: hostile, Created: time.Unix(1, 0).UTC(),
	}
	c := control.Content{Text: hostile, Type: hostile, SHA256: hostile, Cut: true}
	return control.TaskDetail{Task: t, Topic: hostile, Capabilities: []string{hostile}, IdempotencyKey: hostile, Params: c, Result: &c}
}

// TestHostileTasksDoNotReachTheTerminal prints tasks all of whose texts are hostile.
func TestHostileTasksDoNotReachTheTerminal(t *testing.T) {
	detail := hostileTask()
	page := control.TaskPage{Tasks: []control.Task{detail.Task, detail.Task}, Next: "x"}
	quarantined := control.Quarantine{Agent: hostile, ID: hostile, Why: hostile}
	for _, f := range []format{"text", "json"} {
		var b bytes.Buffer
		for _, err := range []error{
			printTasks(&b, page, f), printTask(&b, detail, f), printChanged(&b, detail.Task, f),
			printQuarantined(&b, []control.Quarantine{quarantined}, f), printReleased(&b, quarantined, f),
		} {
			check(t, err)
		}
		if i := strings.IndexFunc(b.String(), func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
			t.Errorf("%s holds %q", f, b.String()[i:min(i+20, b.Len())])
		}
		if strings.Contains(b.String(), "\nline") {
			t.Errorf("%s has a line that an agent wrote:\n%s", f, b.String())
		}
	}
}

// TestJSONIsTheSameThoughItIsEscaped reads back what was printed.
func TestJSONIsTheSameThoughItIsEscaped(t *testing.T) {
	var b bytes.Buffer
	want := hostileTask()
	want.Reason += "\U000e0041 ü 漢 \"quoted\" \\u001b <&>"
	check(t, printTask(&b, want, "json"))
	var got control.TaskDetail
	check(t, json.Unmarshal(b.Bytes(), &got))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestReasonsInListsAreShort(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "short": "short", strings.Repeat("ä", lineReason): strings.Repeat("ä", lineReason), strings.Repeat("ä", 300): strings.Repeat("ä", lineReason) + "…",
	} {
		if got := brief(text, false, lineReason); got != want {
			t.Errorf("%.20q is %q", text, got)
		}
	}
	if got := brief("cut", true, lineReason); got != "cut…" {
		t.Errorf("what was cut is %q", got)
	}
}
