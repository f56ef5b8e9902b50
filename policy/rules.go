package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/ext"
)

// Rules is a policy. It is safe for concurrent use and never changes. A nil *Rules denies everything.
type Rules struct {
	rules  []compiled
	params bool // a condition looks at params
	costly bool // a condition takes CEL to evaluate
}

// compiled is a rule with its condition: a program, or, where the condition is a single variable or constant of
// type bool, that alone.
type compiled struct {
	Rule
	program cel.Program
	simple  func(*activation) bool
	params  bool // it looks at params
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
		c, err := rule.compile()
		if err != nil {
			err.Rule = i + 1
			errs = append(errs, err)
			continue
		}
		r.params = r.params || c.params
		r.costly = r.costly || c.simple == nil
		r.rules = append(r.rules, c)
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

func (r Rule) check() *Error {
	switch {
	case !slices.Contains(Actions(), r.Then):
		return &Error{Field: "Then", Msg: fmt.Sprintf("unknown action %.32q", r.Then), Hint: "an action is allow, deny or ask"}
	case strings.TrimSpace(r.When) == "":
		return &Error{Field: "When", Msg: "the condition is missing", Hint: `"true" holds always`}
	case utf8.RuneCountInString(r.When) > MaxWhen:
		return &Error{Field: "When", Msg: fmt.Sprintf("the condition has more than %d characters", MaxWhen)}
	case len(r.Reason) > MaxReason || !utf8.ValidString(r.Reason):
		return &Error{Field: "Reason", Msg: fmt.Sprintf("want UTF-8 of at most %d bytes", MaxReason)}
	}
	return nil
}

func (r Rule) compile() (compiled, *Error) {
	c := compiled{Rule: r}
	if err := r.check(); err != nil {
		return c, err
	}
	env, err := environment()
	if err != nil {
		return c, &Error{Field: "When", Msg: err.Error()}
	}
	checked, issues := env.Compile(r.When)
	if issues.Err() != nil {
		return c, explain(issues.Errors())
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return c, notBool(checked.OutputType())
	}
	c.params, c.simple = mentions(checked, "params"), simple(checked)
	c.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize),
		cel.CostLimit(maxCost), cel.MemoryLimit(maxMemory), cel.InterruptCheckFrequency(interruptEvery))
	if err != nil { // a constant part of it fails: a pattern that is none, for one
		return c, &Error{Field: "When", Line: 1, Column: 1, Msg: err.Error()}
	}
	return c, nil
}

// simple returns what a condition says that is a single variable or constant, and nil for others.
func simple(a *cel.Ast) func(*activation) bool {
	e := a.NativeRep().Expr()
	switch e.Kind() {
	case ast.IdentKind:
		name := e.AsIdent()
		return func(values *activation) bool {
			value, _ := values.ResolveName(name)
			holds, _ := value.(bool)
			return holds
		}
	case ast.LiteralKind:
		holds, _ := e.AsLiteral().Value().(bool)
		return func(*activation) bool { return holds }
	}
	return nil
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
func mentions(a *cel.Ast, variable string) bool {
	for _, reference := range a.NativeRep().ReferenceMap() {
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
	if r.costly {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, maxTime)
		defer cancel()
	}
	for i := range r.rules {
		if d, decided := r.rules[i].decide(ctx, i+1, &values); decided {
			return d
		}
	}
	return Decision{Action: Deny, Reason: "no rule of the policy allows the call"}
}

func (c *compiled) decide(ctx context.Context, number int, values *activation) (Decision, bool) {
	if c.simple != nil {
		return c.decision(number), c.simple(values)
	}
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
		d.Reason = "rule " + strconv.Itoa(number) + " of the policy"
	}
	return d
}
