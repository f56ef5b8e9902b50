// Package policy decides on the calls that agents make: whether one is allowed, denied, or somebody is to be
// asked.
//
// A policy is a list of [Rule]s, and the first whose condition holds decides. Conditions are written in the
// Common Expression Language (https://cel.dev) over these variables:
//
//	agent, agent_id   string           the name of the agent that calls, and its ID in hexadecimal
//	tool              string           the name of the tool
//	destructive       bool             the tool may destroy or change what is there
//	read_only         bool             the tool changes nothing
//	open_world        bool             the tool deals with what is outside of this machine
//	params            map              the parameters, decoded from JSON
//	taint             list of strings  where the parameters come from: "peer:ID", "tool:NAME"
//	tainted           bool             taint is not empty
//	task              string           the ID of the task that the call is for; "" if there is none
//	now               timestamp        the time, in UTC
//
// What destructive, read_only and open_world say, a tool says of itself: they are hints, unless whoever wrote
// the configuration said them. Besides the functions of the language there are those of its extension for strings
// (lowerAscii, split, replace, …).
//
// Everything that is in doubt is denied: a list without rules, a call that no rule matches, params that
// two readers could understand differently (a property given twice, or two that differ only in case), and a condition whose evaluation ends in an error, as that of
// params.path does if there is no such parameter, or takes too much. So has(params.path) comes before
// params.path where a parameter may be missing.
package policy

import (
	"encoding/json"
	"time"
)

// Action is what is to be done with a call.
type Action string

// The actions. The zero Action is none of them, and counts as Deny.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
	Ask   Action = "ask" // somebody has to allow it
)

// Actions returns all actions.
func Actions() []Action { return []Action{Allow, Deny, Ask} }

// Bounds of a policy.
const (
	MaxRules  = 256
	MaxWhen   = 4096 // characters of a condition
	MaxReason = 256  // bytes
	MaxDepth  = 128  // of the nesting of params
)

// Rule says what is to be done with the calls for which a condition holds.
type Rule struct {
	When   string // the condition; see the package's comment. "true" holds always.
	Then   Action // required
	Reason string // for the agent, and for those who are asked; "" names the rule by its number
}

// BuiltIn returns the policy of those who have none: destructive tools are asked for, and all others are
// allowed.
func BuiltIn() *Rules {
	rules, err := NewRules(BuiltInRules())
	if err != nil {
		panic("policy: " + err.Error()) // the rules are constant
	}
	return rules
}

// BuiltInRules returns the rules of [BuiltIn], to begin others with.
func BuiltInRules() []Rule {
	return []Rule{
		{When: "destructive", Then: Ask, Reason: "the tool is destructive"},
		{When: "true", Then: Allow, Reason: "the tool is not destructive"},
	}
}

// AskIfTainted returns the rule that no destructive tool runs on what came from peers or tools unless
// somebody allows it. It comes before rules that allow such tools on other input.
func AskIfTainted() Rule {
	return Rule{
		When:   "destructive && tainted",
		Then:   Ask,
		Reason: "the tool is destructive, and its parameters come from others",
	}
}

// Call is what conditions see of a call.
type Call struct {
	Agent, AgentID                   string
	Tool                             string
	Destructive, ReadOnly, OpenWorld bool
	Params                           json.RawMessage // a JSON object; empty means {}
	Taint                            []string
	Task                             string
	Now                              time.Time
}

// Decision says what is to be done with a call, and why.
type Decision struct {
	Action Action
	Rule   int    // the number of the rule that decided, from 1; 0 if none did
	Reason string // fit for the agent that made the call, and for logs: it quotes no params
	// Err is why a rule could not be evaluated, nil if all could. It may quote params, so it is not for logs.
	Err error
}
