package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/ext"
)

// Rules is a policy. It is safe for concurrent use and never changes. A nil *Rules denies everything.
type Rules struct {
	rules  []compiled
	params bool // a condition looks at params
}

type compiled struct {
	Rule
	program cel.Program
}

// What one condition may cost to evaluate, in the units of CEL: a comparison, or ten bytes of a text that is
// looked through.
const maxCost = 1_000_000

// maxMemory bounds what the values of one condition take, in bytes of texts and elements of lists and maps.
const maxMemory = 16 << 20

// maxTime bounds the evaluation of all conditions.
const maxTime = time.Second

// interruptEvery is after how many steps of a loop the time is looked at.
const interruptEvery = 256

// Error is one problem of a rule. An error that reports several joins them ([errors.Join]).
type Error struct {
	Rule         int    // its number, from 1
	Line, Column int    // in the condition, in characters from 1; 0 if it is not about the condition
	Field        string // When, Then or Reason
	Msg          string
	Hint         string // what to do about it; may be ""
}

// Error implements the error interface.
func (e *Error) Error() string { return fmt.Sprintf("rule %d: %s", e.Rule, e.Text()) }

// Text is what Error returns without the number of the rule.
func (e *Error) Text() string {
	switch {
	case e.Column == 0:
		return e.Msg
	case e.Line > 1:
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
	default:
		return fmt.Sprintf("column %d: %s", e.Column, e.Msg)
	}
}

// NewRules compiles rules. Each condition has to be of type bool, whatever the params are. Its errors are
// one or several [*Error]. No rules make a policy that denies everything.
func NewRules(rules []Rule) (*Rules, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("policy: %d rules where at most %d are allowed", len(rules), MaxRules)
	}
	r := &Rules{}
	var errs []error
	for i, rule := range rules {
		program, params, err := rule.compile()
		if err != nil {
			err.Rule = i + 1
			errs = append(errs, err)
			continue
		}
		r.params = r.params || params
		r.rules = append(r.rules, compiled{rule, program})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// Len returns the number of rules.
func (r *Rules) Len() int {
	if r == nil {
		return 0
	}
	return len(r.rules)
}

// Asks reports whether some rule asks.
func (r *Rules) Asks() bool {
	return r != nil && slices.ContainsFunc(r.rules, func(c compiled) bool { return c.Then == Ask })
}

func (r Rule) compile() (cel.Program, bool, *Error) {
	switch {
	case !slices.Contains(Actions(), r.Then):
		return nil, false, &Error{Field: "Then", Msg: fmt.Sprintf("unknown action %.32q", r.Then), Hint: "an action is allow, deny or ask"}
	case strings.TrimSpace(r.When) == "":
		return nil, false, &Error{Field: "When", Msg: "the condition is missing", Hint: `"true" holds always`}
	case utf8.RuneCountInString(r.When) > MaxWhen:
		return nil, false, &Error{Field: "When", Msg: fmt.Sprintf("the condition has more than %d characters", MaxWhen)}
	case len(r.Reason) > MaxReason || !utf8.ValidString(r.Reason):
		return nil, false, &Error{Field: "Reason", Msg: fmt.Sprintf("want UTF-8 of at most %d bytes", MaxReason)}
	}
	env, err := environment()
	if err != nil {
		return nil, false, &Error{Field: "When", Msg: err.Error()}
	}
	ast, issues := env.Compile(r.When)
	if issues.Err() != nil {
		return nil, false, explain(issues.Errors())
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, false, notBool(ast.OutputType())
	}
	program, err := env.Program(ast,
		cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost), cel.MemoryLimit(maxMemory), cel.InterruptCheckFrequency(interruptEvery))
	if err != nil { // a constant part of it fails: a pattern that is none, for one
		return nil, false, &Error{Field: "When", Line: 1, Column: 1, Msg: err.Error()}
	}
	return program, mentions(ast, "params"), nil
}

func notBool(t *cel.Type) *Error {
	e := &Error{Field: "When", Line: 1, Column: 1, Msg: fmt.Sprintf("the condition is of type %s, not bool", t)}
	if t.IsExactType(cel.DynType) {
		e.Msg = "the condition is a parameter, which need not be a bool"
		e.Hint = "compare it: params.name == true"
	}
	return e
}

// mentions reports whether an expression refers to a variable.
func mentions(ast *cel.Ast, variable string) bool {
	for _, reference := range ast.NativeRep().ReferenceMap() {
		if reference.Name == variable {
			return true
		}
	}
	return false
}

// explain makes one error of those of the compiler: the first is what the others come from.
func explain(issues []*common.Error) *Error {
	if len(issues) == 0 {
		return &Error{Field: "When", Msg: "not an expression"}
	}
	first := issues[0]
	e := &Error{Field: "When", Line: max(first.Location.Line(), 1), Column: first.Location.Column() + 1, Msg: first.Message}
	e.Msg = strings.ReplaceAll(strings.TrimPrefix(e.Msg, "Syntax error: "), " (in container '')", "")
	if strings.HasPrefix(e.Msg, "undeclared reference to '") {
		e.Hint = "the variables are " + strings.Join(slices.Sorted(maps.Keys(variables)), ", ")
	}
	return e
}

var variables = map[string]*cel.Type{
	"agent":       cel.StringType,
	"agent_id":    cel.StringType,
	"tool":        cel.StringType,
	"destructive": cel.BoolType,
	"read_only":   cel.BoolType,
	"open_world":  cel.BoolType,
	"params":      cel.MapType(cel.StringType, cel.DynType),
	"taint":       cel.ListType(cel.StringType),
	"tainted":     cel.BoolType,
	"task":        cel.StringType,
	"now":         cel.TimestampType,
}

// environment is the language of conditions. To make it takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxWhen),
	}
	for name, kind := range variables {
		options = append(options, cel.Variable(name, kind))
	}
	return cel.NewEnv(options...)
})

// Decide says what is to be done with a call. It never allows one after an error.
func (r *Rules) Decide(ctx context.Context, call Call) Decision {
	if r.Len() == 0 {
		return Decision{Action: Deny, Reason: "the policy has no rules, so it denies all calls"}
	}
	values := activation{call: call}
	if r.params {
		var err error
		if values.params, err = decodeParams(call.Params); err != nil {
			return Decision{Action: Deny, Reason: "the policy cannot read the params: " + err.Error(), Err: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	for i := range r.rules {
		if d, decided := r.rules[i].decide(ctx, i+1, &values); decided {
			return d
		}
	}
	return Decision{Action: Deny, Reason: "no rule of the policy allows the call"}
}

func (c *compiled) decide(ctx context.Context, number int, values *activation) (Decision, bool) {
	value, _, err := c.program.ContextEval(ctx, values)
	if err == nil {
		switch holds := value.Value().(type) {
		case bool:
			return c.decision(number), holds
		default:
			err = errors.New("the condition has no value")
		}
	}
	return Decision{Action: Deny, Rule: number, Reason: fmt.Sprintf("rule %d of the policy cannot be evaluated: %s", number, cause(err)), Err: err}, true
}

// cause says why a condition cannot be evaluated without quoting the params, as the error may do.
func cause(err error) string {
	text := err.Error()
	for _, known := range []struct{ part, cause string }{
		{"no such key", "a parameter that it looks at is missing"},
		{"no such overload", "a parameter that it looks at is of another type"},
		{"limit exceeded", "the params make it too costly"},
		{"interrupted", "it takes too long"},
	} {
		if strings.Contains(text, known.part) {
			return known.cause
		}
	}
	return "the params do not fit"
}

func (c *compiled) decision(number int) Decision {
	d := Decision{Action: c.Then, Rule: number, Reason: c.Reason}
	if d.Reason == "" {
		d.Reason = fmt.Sprintf("rule %d of the policy", number)
	}
	return d
}
