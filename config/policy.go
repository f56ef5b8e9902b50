package config

import (
	"errors"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/policy"
)

// Policy says which of the tool calls that an allowlist names are allowed, denied, or asked about. In a file, the
// section without rules has the built-in ones, as has a file without the section; but a section that is there and
// empty, or whose rules are, denies all calls.
type Policy struct {
	// Rules decide on a call: the first whose condition holds. None that does, or one that cannot be evaluated,
	// denies it. Default nil, which is policy.BuiltInRules: calls of destructive tools are asked about, and all
	// others allowed. A list that is empty and not nil denies all.
	Rules []PolicyRule `key:"rules"`
	// Timeout is how long a call waits for somebody to decide before it is denied, at most 7 days. Default 0,
	// which is 10m.
	Timeout Duration `key:"timeout"`
	// MaxPending is how many calls may wait in all processes that share the store, at most 4096, and
	// MaxPendingPerAgent how many of one agent. Those beyond are denied. Default 0, which is 256 and 16.
	MaxPending         int `key:"max_pending"`
	MaxPendingPerAgent int `key:"max_pending_per_agent"`
	// Key is a secret of 16 bytes at least that those have who decide: whoever can only write to the store cannot
	// allow a call. Processes that share the store and decide for each other need the same. Default none, which is a
	// random one that is kept in Data (approval.key), and with a temporary one, nowhere.
	Key Secret `key:"key"`
}

// PolicyRule is one rule of a [Policy].
type PolicyRule struct {
	// When is the condition, in CEL, see package policy; required.
	When string `key:"when"`
	// Then is allow, deny or ask; required.
	Then string `key:"then"`
	// Reason is told to the agent and to those who are asked. Default "", which is the rule's number.
	Reason string `key:"reason"`
}

func (r PolicyRule) rule() policy.Rule {
	return policy.Rule{When: r.When, Then: policy.Action(r.Then), Reason: r.Reason}
}

// Compile returns the policy that the rules make.
func (p Policy) Compile() (*policy.Rules, error) {
	if p.Rules == nil {
		return policy.BuiltIn(), nil
	}
	var rules []policy.Rule
	for _, r := range p.Rules {
		rules = append(rules, r.rule())
	}
	return policy.NewRules(rules)
}

// complete makes a section that is there and empty deny all, as its author may have meant to.
func (p *Policy) complete(o origin) {
	root := o.nodes[""]
	if root == nil || p.Rules != nil {
		return
	}
	section := root.table.get("policy")
	switch {
	case section == nil:
	case section.kind == isNull, len(section.table.fields) == 0, section.table.get("rules") != nil:
		p.Rules = []PolicyRule{}
	}
}

// policy checks the section.
func (k checker) policy() {
	p := k.Policy
	if len(p.Rules) > policy.MaxRules {
		k.bad("policy.rules", "", "%d rules where at most %d are allowed", len(p.Rules), policy.MaxRules)
		return
	}
	for i, r := range p.Rules {
		k.policyRule(item("policy.rules", i), r)
	}
	k.secret("policy.key", p.Key)
	k.notNegative("policy.timeout", p.Timeout)
	if time.Duration(p.Timeout) > approval.MaxTimeout {
		k.bad("policy.timeout", "", "want at most 168h, not %s", p.Timeout)
	}
	for key, n := range map[string]int{"policy.max_pending": p.MaxPending, "policy.max_pending_per_agent": p.MaxPendingPerAgent} {
		if n < 0 || n > approval.MostPending {
			k.bad(key, "", "want 1 to %d, not %d", approval.MostPending, n)
		}
	}
}

// policyRule compiles a rule, whose errors say where in the condition something is wrong.
func (k checker) policyRule(key string, r PolicyRule) {
	_, err := policy.NewRules([]policy.Rule{r.rule()})
	e, wrong := errors.AsType[*policy.Error](err)
	if !wrong {
		return
	}
	switch e.Field {
	case "Then":
		k.oneOf(child(key, "then"), r.Then, string(policy.Allow), string(policy.Deny), string(policy.Ask))
	case "Reason":
		k.bad(child(key, "reason"), e.Hint, "%s", e.Text())
	default:
		k.bad(child(key, "when"), e.Hint, "%s", e.Text())
	}
}
