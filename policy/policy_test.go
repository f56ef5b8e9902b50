package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/policy"
)

func ExampleRules_Decide() {
	rules, err := policy.NewRules([]policy.Rule{
		policy.AskIfTainted(),
		{When: `tool == "write_file" && params.path.startsWith("/srv/out/")`, Then: policy.Allow},
		{When: "destructive", Then: policy.Deny, Reason: "only files below /srv/out may be written"},
		{When: "true", Then: policy.Allow},
	})
	if err != nil {
		panic(err)
	}
	call := policy.Call{Tool: "write_file", Destructive: true, Params: json.RawMessage(`{"path": "/srv/out/a"}`)}
	show := func() {
		d := rules.Decide(context.Background(), call)
		fmt.Printf("%s: %s\n", d.Action, d.Reason)
	}
	show()
	call.Params = json.RawMessage(`{"path": "/etc/passwd"}`)
	show()
	call.Taint = []string{"tool:fetch"}
	show()
	// Output:
	// allow: rule 2 of the policy
	// deny: only files below /srv/out may be written
	// ask: the tool is destructive, and its parameters come from others
}

func compile(t testing.TB, rules ...policy.Rule) *policy.Rules {
	t.Helper()
	r, err := policy.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func decide(t testing.TB, when string, call policy.Call) policy.Decision {
	t.Helper()
	return compile(t, policy.Rule{When: when, Then: policy.Allow}).Decide(context.Background(), call)
}

func TestConditionsSeeTheCall(t *testing.T) {
	t.Parallel()
	call := policy.Call{
		Agent: "ada", AgentID: "00ff", Tool: "fs.write", Destructive: true, OpenWorld: true,
		Params: json.RawMessage(`{"path": "/a/B", "n": 9007199254740993, "f": 1.5, "list": ["x", {"y": null}], "yes": true, "big": 18446744073709551615}`),
		Taint:  []string{"peer:01", "tool:fetch"}, Task: "t-1",
		Now: time.Date(2026, 3, 4, 23, 30, 0, 0, time.FixedZone("", 3600)),
	}
	for when, want := range map[string]bool{
		`agent == "ada" && agent_id == "00ff" && tool == "fs.write" && task == "t-1"`: true,
		`destructive && open_world && !read_only && tainted`:                          true,
		`"tool:fetch" in taint`:                                      true,
		`taint.exists(l, l.startsWith("peer:"))`:                     true,
		`taint.all(l, l.startsWith("peer:"))`:                        false,
		`tool.startsWith("fs.") && tool in ["fs.write"]`:             true,
		`params.path.startsWith("/a/")`:                              true,
		`params.path.lowerAscii() == "/a/b"`:                         true,
		`params.path.matches("^/a/[A-Z]$")`:                          true,
		`params.path.split("/").size() == 3`:                         true,
		`params.n == 9007199254740993`:                               true,
		`params.n == 9007199254740992`:                               false, // as floats they are one number
		`params.n > 9007199254740992 && params.n < 1e18`:             true,
		`params.f > 1 && params.f < 2`:                               true,
		`params.big > 18446744073709551614u`:                         true,
		`params.yes == true`:                                         true,
		`has(params.path) && !has(params.Path)`:                      true,
		`"y" in params.list[1] && params.list[1].y == null`:          true,
		`params.list[0] == "x" && size(params.list) == 2`:            true,
		`now.getHours() == 22 && now.getDayOfWeek() == 3`:            true, // in UTC
		`now < timestamp("2026-03-05T00:00:00Z")`:                    true,
		`now - timestamp("2026-03-04T22:00:00Z") == duration("30m")`: true,
	} {
		want := map[bool]policy.Action{true: policy.Allow, false: policy.Deny}[want]
		if d := decide(t, when, call); d.Action != want || d.Err != nil {
			t.Errorf("%s: %+v, want %s", when, d, want)
		}
	}
}

func TestFirstMatchDecides(t *testing.T) {
	t.Parallel()
	r := compile(t,
		policy.Rule{When: `tool == "a"`, Then: policy.Deny, Reason: "not a"},
		policy.Rule{When: `tool in ["a", "b"]`, Then: policy.Ask},
		policy.Rule{When: `tool in ["b", "c"]`, Then: policy.Allow},
	)
	for tool, want := range map[string]policy.Decision{
		"a": {Action: policy.Deny, Rule: 1, Reason: "not a"},
		"b": {Action: policy.Ask, Rule: 2, Reason: "rule 2 of the policy"},
		"c": {Action: policy.Allow, Rule: 3, Reason: "rule 3 of the policy"},
		"d": {Action: policy.Deny, Reason: "no rule of the policy allows the call"},
	} {
		if got := r.Decide(context.Background(), policy.Call{Tool: tool}); got != want {
			t.Errorf("%s: %+v, want %+v", tool, got, want)
		}
	}
}

func TestMissingPolicyDenies(t *testing.T) {
	t.Parallel()
	var none *policy.Rules
	for _, r := range []*policy.Rules{none, {}, compile(t)} {
		if d := r.Decide(context.Background(), policy.Call{Tool: "a", ReadOnly: true}); d.Action != policy.Deny || d.Reason == "" {
			t.Errorf("without rules: %+v", d)
		}
		if r.Len() != 0 {
			t.Errorf("a policy without rules has %d", r.Len())
		}
	}
}

func TestBuiltInAsksForDestructiveTools(t *testing.T) {
	t.Parallel()
	r := policy.BuiltIn()
	if d := r.Decide(context.Background(), policy.Call{Destructive: true}); d.Action != policy.Ask || d.Rule != 1 {
		t.Errorf("destructive: %+v", d)
	}
	if d := r.Decide(context.Background(), policy.Call{OpenWorld: true, Taint: []string{"peer:1"}, Params: json.RawMessage(`{`)}); d.Action != policy.Allow {
		t.Errorf("not destructive: %+v", d)
	}
	if r.Len() != 2 {
		t.Errorf("%d rules", r.Len())
	}
}

func TestNoDestructiveToolOnTaintedInputWithoutApproval(t *testing.T) {
	t.Parallel()
	r := compile(t, policy.AskIfTainted(), policy.Rule{When: "true", Then: policy.Allow})
	for _, test := range []struct {
		destructive bool
		taint       []string
		want        policy.Action
	}{
		{true, []string{"peer:1"}, policy.Ask},
		{true, []string{"many"}, policy.Ask},
		{true, nil, policy.Allow},
		{false, []string{"peer:1"}, policy.Allow},
	} {
		d := r.Decide(context.Background(), policy.Call{Destructive: test.destructive, Taint: test.taint})
		if d.Action != test.want {
			t.Errorf("destructive %v, taint %v: %+v", test.destructive, test.taint, d)
		}
	}
}

func TestErrorOfAConditionDenies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ when, params string }{
		"missing param":           {`params.path == "/tmp"`, `{}`},
		"negated, missing param":  {`!(params.path == "/tmp")`, `{}`},
		"of another type":         {`params.path.startsWith("/tmp")`, `{"path": 7}`},
		"no bool":                 {`params.yes == true && params.yes.x`, `{"yes": true}`},
		"division by zero":        {`1 / params.n == 1`, `{"n": 0}`},
		"overflow":                {`params.n + 1 > 0`, `{"n": 9223372036854775807}`},
		"index":                   {`params.list[5] == 1`, `{"list": []}`},
		"no timestamp":            {`timestamp(params.at) < now`, `{"at": "tomorrow"}`},
		"pattern from the params": {`"x".matches(params.p)`, `{"p": "("}`},
	} {
		first := compile(t, policy.Rule{When: test.when, Then: policy.Deny}, policy.Rule{When: "true", Then: policy.Allow})
		for _, d := range []policy.Decision{
			decide(t, test.when, policy.Call{Params: json.RawMessage(test.params)}),
			first.Decide(context.Background(), policy.Call{Params: json.RawMessage(test.params)}),
		} {
			if d.Action != policy.Deny || d.Err == nil || d.Rule != 1 || !strings.Contains(d.Reason, "rule 1") {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

func TestParamsThatReadersDisagreeOnAreDenied(t *testing.T) {
	t.Parallel()
	r := compile(t, policy.Rule{When: `has(params.path) || true`, Then: policy.Allow})
	for name, params := range map[string]string{
		"given twice":         `{"path": "/srv/out/a", "path": "/etc/passwd"}`,
		"twice by an escape":  `{"path": "/srv/out/a", "p\u0061th": "/etc/passwd"}`,
		"twice but for case":  `{"path": "/srv/out/a", "PATH": "/etc/passwd"}`,
		"twice by a long s":   `{"dest": "/srv/out/a", "deſt": "/etc/passwd"}`,
		"twice, deeper":       `{"o": [{"a": 1, "a": 2}]}`,
		"no object":           `["path"]`,
		"null":                `null`,
		"two values":          `{} {}`,
		"no JSON":             `{path: 1}`,
		"not UTF-8":           "{\"path\": \"\xff\"}",
		"nested without end":  `{"a": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"a number beyond all": `{"n": 1e999}`,
		"too large":           `{"a": "` + strings.Repeat("x", policy.MaxParams) + `"}`,
	} {
		if d := r.Decide(context.Background(), policy.Call{Params: json.RawMessage(params)}); d.Action != policy.Deny || d.Err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
	for _, params := range []string{``, `{}`, ` {"path": "x"} `} {
		if d := r.Decide(context.Background(), policy.Call{Params: json.RawMessage(params)}); d.Action != policy.Allow {
			t.Errorf("%s: %+v", params, d)
		}
	}
}

func TestParamsThatCostTooMuchAreDenied(t *testing.T) {
	t.Parallel()
	numbers, _ := json.Marshal(map[string]any{"list": make([]int, 20_000), "text": strings.Repeat("a", 300_000), "pattern": strings.Repeat("(a*)*", 50)})
	for _, when := range []string{
		`params.list.all(x, params.list.all(y, x == y))`,
		`params.list.map(x, params.text + params.text).size() > 0`,
		`params.list.all(x, params.text.replace("a", "aa").size() > 0)`,
		`params.list.all(x, params.text.contains(params.text + "b"))`,
		`params.list.all(x, params.text.matches(params.pattern))`,
	} {
		began := time.Now()
		d := decide(t, when, policy.Call{Params: numbers})
		if d.Action != policy.Deny || d.Err == nil {
			t.Errorf("%s: %+v", when, d)
		}
		t.Logf("%s: %v after %v", when, d.Err, time.Since(began))
	}
}

func TestLargeParamsAreDecidedOn(t *testing.T) {
	t.Parallel()
	params := json.RawMessage(`{"path": "/srv/out/a", "text": "` + strings.Repeat("x", policy.MaxParams-100) + `"}`)
	if d := decide(t, `params.path.startsWith("/srv/") && !params.text.contains("secret")`, policy.Call{Params: params}); d.Action != policy.Allow {
		t.Errorf("%+v", d)
	}
}

func TestEndedContextDenies(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	numbers, _ := json.Marshal(map[string]any{"list": make([]int, 10_000)})
	r := compile(t, policy.Rule{When: `params.list.all(x, x == 0)`, Then: policy.Allow})
	if d := r.Decide(ctx, policy.Call{Params: numbers}); d.Action != policy.Deny || d.Err == nil {
		t.Errorf("after the end of the context: %+v", d)
	}
}

func TestRulesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	const variables = "the variables are agent, agent_id, destructive, now, open_world, params, read_only, taint, tainted, task, tool"
	good := policy.Rule{When: "true", Then: policy.Allow}
	for name, test := range map[string]struct {
		rule policy.Rule
		want policy.Error
	}{
		"unknown variable": {policy.Rule{When: `tool == "a" && agnet == "b"`, Then: policy.Deny},
			policy.Error{Field: "When", Line: 1, Column: 16, Msg: "undeclared reference to 'agnet' (did you mean 'agent'?)", Hint: variables}},
		"second line": {policy.Rule{When: "destructive &&\n  toool", Then: policy.Deny},
			policy.Error{Field: "When", Line: 2, Column: 3, Msg: "undeclared reference to 'toool' (did you mean 'tool'?)", Hint: variables}},
		"no bool": {policy.Rule{When: `tool`, Then: policy.Deny},
			policy.Error{Field: "When", Line: 1, Column: 1, Msg: "the condition is of type string, not bool"}},
		"maybe a bool": {policy.Rule{When: `params.yes`, Then: policy.Deny},
			policy.Error{Field: "When", Line: 1, Column: 1, Msg: "the condition is a parameter, which need not be a bool", Hint: "compare it: params.name == true"}},
		"types": {policy.Rule{When: `tool == 7`, Then: policy.Deny},
			policy.Error{Field: "When", Line: 1, Column: 6, Msg: "found no matching overload for '_==_' applied to '(string, int)'"}},
		"no condition": {policy.Rule{When: " ", Then: policy.Deny},
			policy.Error{Field: "When", Msg: "the condition is missing", Hint: `"true" holds always`}},
		"no action": {policy.Rule{When: "true"},
			policy.Error{Field: "Then", Msg: `unknown action ""`, Hint: "an action is allow, deny or ask"}},
		"other action": {policy.Rule{When: "true", Then: "Allow"},
			policy.Error{Field: "Then", Msg: `unknown action "Allow"`, Hint: "an action is allow, deny or ask"}},
		"long": {policy.Rule{When: strings.Repeat(" ", policy.MaxWhen) + "true", Then: policy.Deny},
			policy.Error{Field: "When", Msg: "the condition has more than 4096 characters"}},
		"long reason": {policy.Rule{When: "true", Then: policy.Deny, Reason: strings.Repeat("r", policy.MaxReason+1)},
			policy.Error{Field: "Reason", Msg: "want UTF-8 of at most 256 bytes"}},
	} {
		r, err := policy.NewRules([]policy.Rule{good, test.rule})
		test.want.Rule = 2
		if e, ok := errors.AsType[*policy.Error](err); !ok || *e != test.want || r != nil {
			t.Errorf("%s: %#v, want %#v", name, e, test.want)
		}
	}
	_, err := policy.NewRules([]policy.Rule{{When: "tool ==", Then: policy.Allow}})
	if err == nil || !strings.HasPrefix(err.Error(), "rule 1: column ") {
		t.Errorf("syntax: %v", err)
	}
	_, err = policy.NewRules([]policy.Rule{{When: `tool.matches("(")`, Then: policy.Allow}})
	if err == nil || !strings.HasPrefix(err.Error(), "rule 1: column 1: ") {
		t.Errorf("pattern: %v", err)
	}
	_, err = policy.NewRules(slices.Repeat([]policy.Rule{good}, policy.MaxRules+1))
	if err == nil {
		t.Error("too many rules are accepted")
	}
	_, err = policy.NewRules([]policy.Rule{{}, good, {When: "x", Then: policy.Deny}})
	if err == nil || !strings.Contains(err.Error(), "rule 1: ") || !strings.Contains(err.Error(), "rule 3: ") {
		t.Errorf("two of three: %v", err)
	}
}

func FuzzDecideNeverAllowsOnError(f *testing.F) {
	f.Add(`params.path.startsWith("/srv")`, `{"path": "/srv/x"}`)
	f.Add(`params.list.all(x, x > 1)`, `{"list": [1, 2, "a"]}`)
	f.Add(`has(params.a.b) || params.a.b.c == 1`, `{"a": {"b": 1}}`)
	f.Add(`tool.matches(params.p)`, `{"p": "(a+)+$"}`)
	f.Add(`now - timestamp(params.t) < duration("1h")`, `{"t": "2026-01-01T00:00:00Z"}`)
	f.Add(`"%s".format([params]) == tool`, `{"a": [1, 2.5, null]}`)
	f.Fuzz(func(t *testing.T, when, params string) {
		allows, err := policy.NewRules([]policy.Rule{{When: when, Then: policy.Allow}})
		if err != nil {
			return
		}
		denies := compile(t, policy.Rule{When: when, Then: policy.Deny}, policy.Rule{When: "true", Then: policy.Allow})
		call := policy.Call{Tool: "tool", Params: json.RawMessage(params), Taint: []string{"peer:1"}, Now: time.Unix(1, 0)}
		a, d := allows.Decide(t.Context(), call), denies.Decide(t.Context(), call)
		for _, got := range []policy.Decision{a, d} {
			if got.Action != policy.Allow && got.Action != policy.Deny || got.Err != nil && got.Action != policy.Deny {
				t.Errorf("%+v", got)
			}
		}
		if a.Action == policy.Allow && d.Action == policy.Allow {
			t.Errorf("%s holds and does not: %+v, %+v", when, a, d)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	tainted := policy.Call{
		Agent: "ada", Tool: "fs.write", Destructive: true, Taint: []string{"peer:1"}, Now: time.Now(),
		Params: json.RawMessage(`{"path": "/srv/out/report.txt", "text": "` + strings.Repeat("x", 200) + `"}`),
	}
	for name, rules := range map[string][]policy.Rule{
		"built-in": policy.BuiltInRules(),
		"params":   {{When: `tool == "fs.write" && params.path.startsWith("/srv/out/") && !params.path.contains("..")`, Then: policy.Allow}},
		"large":    {{When: `size(params.text) > 100 && params.path.startsWith("/srv/out/")`, Then: policy.Allow}},
		"ten": append(slices.Repeat([]policy.Rule{{When: `tool == "other" && agent in ["bob", "eve"]`, Then: policy.Deny}}, 9),
			policy.Rule{When: "true", Then: policy.Allow}),
	} {
		r, call := compile(b, rules...), tainted
		if name == "large" {
			call.Params = json.RawMessage(`{"path": "/srv/out/report.txt", "text": "` + strings.Repeat("x", 1_000_000) + `"}`)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Decide(context.Background(), call)
			}
		})
	}
}
