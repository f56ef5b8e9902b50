package llm

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/tool"
)

// Calls at the same time do not exceed a budget together.
func TestReservationsHoldABudgetTogether(t *testing.T) {
	l := newLedger(Budget{Calls: Unlimited, Tokens: 10_000, ToolCalls: Unlimited, Cost: 0.1}, DefaultDayBudget, Price{Input: 5, Output: 10})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				r, err := l.reserve("task", 100, 500)
				if err != nil {
					continue
				}
				l.settle(r, Usage{Input: 100, Output: r.maxTokens})
			}
		})
	}
	all.Wait()
	if u := *l.accounts["task"]; u.Tokens > 10_000 || u.Tokens < 9_000 || u.Cost > 100_000 || u != l.used {
		t.Errorf("%+v, today %+v", u, l.used)
	}
	if _, err := l.reserve("task", 100, 500); !errors.Is(err, ErrBudget) {
		t.Errorf("%v", err)
	}
}

func TestStateComesBack(t *testing.T) {
	l := newLedger(DefaultTaskBudget, DefaultDayBudget, Price{})
	for i := range 5 {
		r, _ := l.reserve(fmt.Sprint("task", i), 10, 20)
		l.settle(r, Usage{Input: 10, Output: i})
	}
	l.forget("task3")
	if err := l.toolCall("task1"); err != nil {
		t.Fatal(err)
	}
	state := l.encode()
	if state == nil || l.encode() != nil {
		t.Fatal("the state is told once for each change")
	}
	other := newLedger(DefaultTaskBudget, DefaultDayBudget, Price{})
	if err := other.decode(state); err != nil {
		t.Fatal(err)
	}
	if other.used != l.used || len(other.accounts) != 4 || *other.accounts["task1"] != *l.accounts["task1"] {
		t.Errorf("%+v", other)
	}
	other.changed = true
	if again := other.encode(); !bytes.Equal(again, state) {
		t.Error("the state is another one when it is written again")
	}
	if err := other.decode([]byte{0x84, 2, 0, 0, 0}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer version: %v", err)
	}
}

func TestAccountsAreBounded(t *testing.T) {
	l := newLedger(DefaultTaskBudget, DefaultDayBudget, Price{})
	for i := range 3 * maxAccounts {
		_ = l.toolCall(fmt.Sprint(i))
	}
	if len(l.accounts) != maxAccounts || len(l.order) != maxAccounts {
		t.Errorf("%d accounts", len(l.accounts))
	}
}

func FuzzState(f *testing.F) {
	l := newLedger(DefaultTaskBudget, DefaultDayBudget, Price{})
	_ = l.toolCall("a task")
	f.Add(l.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, state []byte) {
		l := newLedger(DefaultTaskBudget, DefaultDayBudget, Price{})
		if l.decode(state) != nil {
			return
		}
		l.changed = true
		l.now = func() time.Time { return time.Unix(l.today*daySeconds, 0) }
		if again := l.encode(); !bytes.Equal(again, state) {
			t.Errorf("%x was read and is written as %x", state, again)
		}
	})
}

func TestToolsHaveNamesThatModelsTake(t *testing.T) {
	long := strings.Repeat("long.", 20)
	tools := []string{"fs.read", "fs__read", "send_message", "plain", long + "a", long + "b", "report_task"}
	names, err := nameTools(tools, builtins)
	if err != nil || len(names) != len(tools) {
		t.Fatalf("%v, %v", names, err)
	}
	for short := range names {
		if !isToolName(short) {
			t.Errorf("%q", short)
		}
	}
	if names["fs__read"] != "fs.read" || names["plain"] != "plain" || names["send_message"] != "" {
		t.Errorf("%v", names)
	}
	again, _ := nameTools([]string{"report_task", long + "b", "plain", long + "a", "fs__read", "send_message", "fs.read"}, builtins)
	if fmt.Sprint(again) != fmt.Sprint(names) {
		t.Errorf("the names depend on the order: %v and %v", names, again)
	}
}

func TestToolDescriptionsAreCleaned(t *testing.T) {
	registry := tool.NewRegistry()
	o := tool.Options{Description: "reads\u202E\U000E0041\n" + strings.Repeat("x", 5000)}
	if err := registry.Register(tool.Func("read", nil), o); err != nil {
		t.Fatal(err)
	}
	shown, err := toolFor(registry, "read", "read")
	if err != nil || len(shown.Description) > maxDescription+3 || strings.ContainsAny(shown.Description, "\u202E\U000E0041\n") {
		t.Errorf("%q, %v", shown.Description, err)
	}
	if string(shown.Schema) != `{"properties":{},"type":"object"}` {
		t.Errorf("%s", shown.Schema)
	}
}

func TestArgumentsAreReadStrictly(t *testing.T) {
	for raw, want := range map[string]string{
		`{"to":"a","text":"b"}`:               "",
		` {"text":"","to":"b"} `:              "",
		`{"to":"a"}`:                          "missing",
		`{"to":"a","text":"b","sender":"me"}`: "no argument",
		`{"to":"a","text":"b","To":"c"}`:      "no argument",
		`{"to":"a","to":"b","text":"c"}`:      "twice",
		`{"to":1,"text":"b"}`:                 "a string",
		`{"to":null,"text":"b"}`:              "a string",
		`{"to":["a"],"text":"b"}`:             "a string",
		`{"to":"a","text":"b"} {"x":1}`:       "not one",
		`{"to":"a","text":"b"`:                "not",
		`["to","a"]`:                          "not a JSON object",
		`null`:                                "not a JSON object",
		``:                                    "not a JSON object",
		`{"to":"a","text":}`:                  "not a JSON object",
	} {
		_, err := textArguments(raw, "to", "text")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}
