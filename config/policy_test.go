package config_test

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/policy"
)

const policyHead = "network: n\nagents: [{name: w, kind: worker}]\n"

func parsePolicy(t *testing.T, text string, o config.Options) config.Policy {
	t.Helper()
	c, err := config.Parse(filepath.FromSlash("etc/c.yaml"), []byte(policyHead+text), o)
	if err != nil {
		t.Fatal(describe(problems(t, err)))
	}
	return c.Policy
}

func TestPolicyIsRead(t *testing.T) {
	want := config.Policy{
		Rules: []config.PolicyRule{
			{When: "destructive && tainted", Then: "ask", Reason: "look first"},
			{When: `tool == "rm" && params.path.startsWith("/srv/x")`, Then: "allow"},
			{When: "true", Then: "deny"},
		},
		Timeout: config.Duration(time.Minute), MaxPending: 10, MaxPendingPerAgent: 2,
		Key: config.Secret{File: filepath.FromSlash("etc/approval.secret")},
	}
	text := `
vars: {dir: /srv/x}
policy:
  rules:
    - {when: destructive && tainted, then: ask, reason: look first}
    - when: tool == "rm" && params.path.startsWith("${dir}")
      then: allow
    - {when: "true", then: deny}
  timeout: 1m
  max_pending: 10
  max_pending_per_agent: 2
  key: {file: approval.secret}
`
	if got := parsePolicy(t, text, config.Options{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	toml := "network = \"n\"\nagents = [{name = \"w\", kind = \"worker\"}]\n[[policy.rules]]\nwhen = '''destructive && tainted'''\nthen = \"ask\"\n"
	c, err := config.Parse("c.toml", []byte(toml), config.Options{})
	if err != nil || len(c.Policy.Rules) != 1 || c.Policy.Rules[0].Then != "ask" {
		t.Errorf("TOML: %v, %v", c, err)
	}
}

func TestPolicyThatIsThereAndEmptyDeniesAll(t *testing.T) {
	harmless := policy.Call{Tool: "look", ReadOnly: true}
	for text, want := range map[string]policy.Action{
		"":                                     policy.Allow,
		"policy: {timeout: 1m}":                policy.Allow,
		"policy:":                              policy.Deny,
		"policy: {}":                           policy.Deny,
		"policy: {rules: []}":                  policy.Deny,
		"policy:\n  rules:\n  timeout: 1m":     policy.Deny,
		"policy:\n  rules:\n  # - {when: x}\n": policy.Deny,
	} {
		p := parsePolicy(t, text, config.Options{})
		rules, err := p.Compile()
		if err != nil {
			t.Fatal(err)
		}
		if d := rules.Decide(context.Background(), harmless); d.Action != want {
			t.Errorf("%q: %s, want %s", text, d.Action, want)
		}
	}
	set := parsePolicy(t, "", config.Options{Environ: []string{"CONVERGE_POLICY_TIMEOUT=3m"}})
	if set.Rules != nil || set.Timeout != config.Duration(3*time.Minute) {
		t.Errorf("by a variable: %+v", set)
	}
	if rules, err := (config.Policy{}).Compile(); err != nil || rules.Len() != len(policy.BuiltInRules()) {
		t.Errorf("of a Config made in Go: %v, %v", rules, err)
	}
}

func TestBrokenPolicyIsAnErrorWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"policy: {rules: [{when: agnet == 'x', then: allow}]}":                                               "c.yaml:3:25: policy.rules[0].when: column 1: undeclared reference to 'agnet' (did you mean 'agent'?)",
		"policy:\n  rules:\n    - {when: 'true', then: allow}\n    - when: destructive &&\n      then: deny": "c.yaml:6:13: policy.rules[1].when: column 15: ",
		"policy: {rules: [{when: tool, then: allow}]}":                                                       "c.yaml:3:25: policy.rules[0].when: column 1: the condition is of type string, not bool",
		"policy: {rules: [{then: allow}]}":                                                                   "c.yaml:3:18: policy.rules[0].when: the condition is missing",
		"policy: {rules: [{when: 'true'}]}":                                                                  `c.yaml:3:18: policy.rules[0].then: unknown value ""`,
		"policy: {rules: [{when: 'true', then: alow}]}":                                                      `c.yaml:3:39: policy.rules[0].then: unknown value "alow"`,
		"policy: {rules: [{when: true, then: allow}]}":                                                       "c.yaml:3:25: policy.rules[0].when: want a string, not true",
		"policy: {rules: [{when: 'true', then: deny, why: x}]}":                                              "c.yaml:3:45: policy.rules[0].why: unknown key",
		"policy: {timeout: 169h}":                                                                            "c.yaml:3:19: policy.timeout: want at most 168h, not 169h",
		"policy: {key: swordfish}":                                                                           "c.yaml:3:15: policy.key: a secret does not stand in a configuration",
		"policy: {max_pending: 5000}":                                                                        "c.yaml:3:23: policy.max_pending: want 1 to 4096, not 5000",
		"policy: {max_pending_per_agent: -1}":                                                                "c.yaml:3:33: policy.max_pending_per_agent: want 1 to 4096, not -1",
		"policy: {rules: [{when: 'true', then: deny, reason: " + strings.Repeat("r", 300) + "}]}":            "c.yaml:3:53: policy.rules[0].reason: want UTF-8 of at most 256 bytes",
	} {
		_, err := config.Parse("c.yaml", []byte(policyHead+text), config.Options{})
		list := problems(t, err)
		if len(list) != 1 || !strings.HasPrefix(list[0].Error(), want) {
			t.Errorf("%.80q:\n%s\nwant %s", text, describe(list), want)
		}
	}
	c, err := config.Parse("c.yaml", []byte(policyHead), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Policy.Rules = slices.Repeat([]config.PolicyRule{{When: "true", Then: "deny"}}, policy.MaxRules+1)
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "policy.rules: 257 rules") {
		t.Errorf("too many rules: %v", err)
	}
}
