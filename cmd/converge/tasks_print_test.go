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
			if err != nil {
				t.Fatal(err)
			}
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
	err := printTask(&b, want, "json")
	var got control.TaskDetail
	if err == nil {
		err = json.Unmarshal(b.Bytes(), &got)
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
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

// TestUsageOfTasksAndQuarantines types what no network has to be asked about.
func TestUsageOfTasksAndQuarantines(t *testing.T) {
	for line, want := range map[string]string{
		"tasks requeue":                  "ID is missing",
		"tasks cancel":                   "ID is missing",
		"tasks show":                     "ID is missing",
		"tasks show one two":             `unexpected argument "two"`,
		"tasks list now":                 `unexpected argument "now"`,
		"tasks list --data d -c c.yaml":  "--data and --config: give one of them",
		"tasks list --limit 0":           "--limit: 0 is not 1 to 500",
		"tasks list --limit 501":         "--limit: 501 is not 1 to 500",
		"tasks list --state deaf":        `--state: there is no state "deaf"`,
		"tasks list --state dead,failed": "--state: the state dead goes with no other one",
		"tasks list --newer -1h":         "--newer and --older: how long ago, such as 1h",
		"tasks list -o yaml":             "use text or json",
		"tasks cancel t-1 --as " + strings.Repeat("x", 257): "--note has at most 1024 bytes, and --as 256",
		"keys quarantine release":                           "AGENT is missing",
		"keys quarantine release a b":                       `unexpected argument "b"`,
		"keys quarantine releas a":                          `unknown command "converge keys quarantine releas"`,
		"keys import f d --data d":                          "DIR goes with none of",
		"keys import f d --note why":                        "DIR goes with none of",
		"keys revoke f":                                     "a revocation cannot be undone",
	} {
		stdout, stderr, code := typed(strings.Fields(line)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("converge %s: exit status %d, want %q:\n%s%s", line, code, want, stdout, stderr)
		}
	}
}

// typed runs a command in this process, which costs less than another one, and returns its outputs and its exit code.
func typed(args ...string) (stdout, stderr string, code int) {
	var out, problems strings.Builder
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&problems)
	code = report(&problems, root.Execute())
	return out.String(), problems.String(), code
}
