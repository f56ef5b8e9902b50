package policy

import "cel.dev/cel-go/cel"

// activation gives conditions the values of their variables.
type activation struct {
	call   Call
	params map[string]any
}

// ResolveName implements [cel.Activation].
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "agent":
		return a.call.Agent, true
	case "agent_id":
		return a.call.AgentID, true
	case "tool":
		return a.call.Tool, true
	case "destructive":
		return a.call.Destructive, true
	case "read_only":
		return a.call.ReadOnly, true
	case "open_world":
		return a.call.OpenWorld, true
	case "params":
		return a.params, true
	case "taint":
		return a.call.Taint, true
	case "tainted":
		return len(a.call.Taint) > 0, true
	case "task":
		return a.call.Task, true
	case "now":
		return a.call.Now.UTC(), true
	}
	return nil, false
}

// Parent implements [cel.Activation].
func (a *activation) Parent() cel.Activation { return nil }
