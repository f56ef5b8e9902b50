package config

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/message"
)

const (
	defaultToolTimeout = 30 * time.Second
	maxFill            = 36 * 365 * 24 * time.Hour // within which a bucket has to fill, see ratelimit.Limit
)

// Validate reports whether the configuration keeps all rules: that of one made in Go, or of one that
// was changed since it was read. Its errors are like those of [Load]; places are those of the file that
// the Config was read from, if it was.
func (c *Config) Validate() error {
	k := checker{c, &problems{file: c.origin.file}}
	k.network()
	k.state()
	k.transport()
	k.limits()
	k.audit()
	for _, name := range slices.Sorted(maps.Keys(c.Tools)) {
		k.tool(name, c.Tools[name])
	}
	k.mcp()
	k.policy()
	k.models()
	k.agents()
	return k.problems.err()
}

// checker gathers what is wrong with a Config.
type checker struct {
	*Config
	problems *problems
}

func (k checker) bad(key, hint, format string, args ...any) {
	k.problems.add(k.origin.place(key), key, &Error{Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// oneOf checks a value that must be one of a few.
func (k checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.bad(key, suggest(value, "values", allowed), "unknown value %q", clip(value))
	}
}

// atLeast checks a number's lower bound.
func (k checker) atLeast(key string, value, least int) {
	if value < least {
		k.bad(key, "", "want at least %d, not %d", least, value)
	}
}

// notNegative checks durations that were made in Go; the text form has no negative ones.
func (k checker) notNegative(key string, d Duration) {
	if d < 0 {
		k.bad(key, "", "want a duration that is not negative, not %s", d)
	}
}

const nameHint = "use 1 to 128 letters, digits, '_', '-' and '.'"

// isName reports whether s can name a tool, a capability or a task.
func isName(s string) bool { return names.Is(s, 128, "_-.") }

func (k checker) network() {
	if k.Network == "" {
		k.bad("network", "name the network, such as quickstart", "required")
	} else if err := message.CheckNetwork(k.Network); err != nil {
		k.bad("network", "", "%s", err)
	}
	for _, name := range slices.Sorted(maps.Keys(k.Vars)) {
		if !isVariable(name) {
			k.bad(child("vars", name), "use lower-case letters, digits and '_', a letter first", "not a variable's name")
		}
	}
	k.oneOf("log.level", k.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", k.Log.Format, "text", "json")
	if l := k.Metrics.Listen; l != "" && !isHostPort(l) {
		k.bad("metrics.listen", `write it such as "localhost:9090" or ":9090"`, "want host:port, not %q", clip(l))
	}
}

func isVariable(name string) bool {
	return name != "" && 'a' <= name[0] && name[0] <= 'z' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (k checker) limits() {
	if s := k.Limits.MessageSize; s < 1<<10 || s > 1<<30 {
		k.bad("limits.message_size", "", "want 1KiB to 1GiB, not %s", s)
	}
	k.buckets("limits.ingress", k.Limits.Ingress)
	k.buckets("limits.egress", k.Limits.Egress)
}

func (k checker) buckets(key string, b Buckets) {
	k.limit(child(key, "global"), b.Global)
	k.limit(child(key, "sender"), b.Sender)
	k.limit(child(key, "topic"), b.Topic)
}

func (k checker) limit(key string, l Limit) {
	if !l.Rate.isValid() {
		k.bad(child(key, "rate"), "", "want above 0 and at most 1e9, or unlimited, not %s", l.Rate)
	}
	if l.Burst < 0 || l.Burst > maxRate || l.Burst == 0 && !l.Rate.IsUnlimited() {
		k.bad(child(key, "burst"), "", "want 1 to 1000000000, not %d", l.Burst)
	} else if float64(l.Burst)/float64(l.Rate) > maxFill.Seconds() {
		k.bad(child(key, "burst"), "raise the rate or lower the burst", "at %s a second, %d take longer than 36 years", l.Rate, l.Burst)
	}
}

func (k checker) environment(key string, t Tool) {
	isBad := func(name string) bool { return name == "" || strings.ContainsAny(name, "=\x00") }
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		if isBad(name) {
			k.bad(child(child(key, "env"), name), "", "not an environment variable's name")
		}
	}
	for i, name := range t.PassEnv {
		if isBad(name) {
			k.bad(item(child(key, "pass_env"), i), "to set a value, use env", "not an environment variable's name")
		}
	}
}

// Names returns the names of the agents that a describes: its own, or worker-1, worker-2 and so on for
// a Count above 1.
func (a Agent) Names() []string {
	if a.Count == 1 {
		return []string{a.Name}
	}
	var names []string
	for i := range a.Count {
		names = append(names, fmt.Sprintf("%s-%d", a.Name, i+1))
	}
	return names
}

func (k checker) agents() {
	total, names, keys := 0, map[string]string{}, map[string]string{}
	for i, a := range k.Agents {
		key := item("agents", i)
		k.agent(key, a)
		if a.Count > MaxAgents-total {
			k.bad(child(key, "count"), "", "more than %d agents in all", MaxAgents)
			return
		}
		total += max(0, a.Count)
		k.unique(key, a, names)
		if other := keys[a.Key]; a.Key != "" && other != "" {
			k.bad(child(key, "key"), "each agent needs a key of its own", "also the key of %s", other)
		}
		keys[a.Key] = key
	}
}

// unique checks that no other agent has one of a's names; names holds the agents before it.
func (k checker) unique(key string, a Agent, names map[string]string) {
	for _, name := range a.Names() {
		if other := names[name]; other != "" && a.Name != "" {
			k.bad(child(key, "name"), "", "%q is also a name of %s", clip(name), other)
			return
		}
		names[name] = key
	}
}

const agentNameHint = "use 1 to 63 lower-case letters, digits and '-'"

// isAgentName reports whether s can name an agent or a peer.
func isAgentName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func (k checker) agent(key string, a Agent) {
	if a.Name == "" {
		k.bad(child(key, "name"), "", "required")
	} else if !isAgentName(a.Name) {
		k.bad(child(key, "name"), agentNameHint, "not an agent's name: %q", clip(a.Name))
	}
	k.atLeast(child(key, "count"), a.Count, 1)
	if a.Key != "" && a.Count > 1 {
		k.bad(child(key, "key"), "leave it out: each agent gets a key of its own", "not together with a count above 1")
	}
	for i, text := range a.Topics {
		if _, err := message.ParsePattern(text); err != nil {
			k.bad(item(child(key, "topics"), i), "", "%s", err)
		}
	}
	k.notNegative(child(key, "deadline"), a.Deadline)
	switch a.Kind {
	case KindWorker:
		k.worker(key, a)
		k.notFor("a worker", key, "deadline", "tasks", "workers", "submitters")
	case KindCoordinator:
		k.coordinator(key, a)
		k.notFor("a coordinator", key, "capabilities", "tools", "concurrency", "tool_timeout", "workers", "submitters")
	case KindHost:
		k.host(key, a)
		k.notFor("a host", key, "capabilities", "tools", "concurrency", "tool_timeout", "deadline", "tasks", "pools")
	case KindLLM:
		k.llm(key, a)
		k.notFor("an agent with a model", key, "deadline", "tasks", "workers", "submitters")
	case "":
		k.bad(child(key, "kind"), "known values: "+strings.Join(kinds, ", "), "required")
	default:
		k.oneOf(child(key, "kind"), a.Kind, kinds...)
	}
	if a.Kind != KindLLM {
		k.notFor("an agent without a model", key, llmKeys...)
	}
}

func (k checker) notFor(kind, key string, names ...string) {
	for _, name := range names {
		if k.origin.given(child(key, name)) {
			k.bad(child(key, name), "", "not for %s", kind)
		}
	}
}

func (k checker) worker(key string, a Agent) {
	k.hands(key, a)
	for _, capability := range slices.Sorted(maps.Keys(a.Capabilities)) {
		at, name := child(child(key, "capabilities"), capability), a.Capabilities[capability]
		if !isName(capability) {
			k.bad(at, nameHint, "not a capability's name")
		}
		if k.knownTool(at, name) && !slices.Contains(a.Tools, name) {
			k.bad(at, fmt.Sprintf("add %q to %s", name, child(key, "tools")), "tool %q is not on this agent's allowlist", name)
		}
	}
}

// hands checks what workers and agents with a model do their work with.
func (k checker) hands(key string, a Agent) {
	k.atLeast(child(key, "concurrency"), a.Concurrency, 1)
	if a.ToolTimeout <= 0 {
		k.bad(child(key, "tool_timeout"), "", "want a duration above 0, not %s", a.ToolTimeout)
	}
	for i, name := range a.Tools {
		at := item(child(key, "tools"), i)
		k.knownTool(at, name)
		if slices.Contains(a.Tools[:i], name) {
			k.bad(at, "", "%q is given twice", clip(name))
		}
	}
}

func (k checker) knownTool(key, name string) bool {
	_, ok := k.Tools[name]
	if !ok {
		_, _, ok = k.MCPTool(name)
	}
	if !ok {
		known := slices.Sorted(maps.Keys(k.Tools))
		k.bad(key, suggest(name, "tools", append(known, k.mcpTools()...)), "unknown tool %q", clip(name))
	}
	return ok
}

func (k checker) coordinator(key string, a Agent) {
	if len(a.Tasks) == 0 {
		k.bad(child(key, "tasks"), "", "required")
	}
	names := map[string]bool{}
	for i, t := range a.Tasks {
		at := item(child(key, "tasks"), i)
		k.task(at, t)
		if names[t.Name] && t.Name != "" {
			k.bad(child(at, "name"), "give each task a name of its own", "%q is given twice", clip(t.Name))
		}
		names[t.Name] = true
	}
}

func (k checker) task(key string, t Task) {
	k.capability(child(key, "capability"), t.Capability)
	if t.Name != "" && !isName(t.Name) {
		k.bad(child(key, "name"), nameHint, "not a task's name: %q", clip(t.Name))
	}
	switch {
	case t.Each != "" && t.In == "":
		k.bad(child(key, "in"), `name the folder that each searches, such as "."`, "required with each")
	case t.Each == "" && t.In != "":
		k.bad(child(key, "in"), `each: "**" takes every file`, "only together with each")
	case t.Each == "" && len(t.Exclude) > 0:
		k.bad(child(key, "exclude"), "", "only together with each")
	}
	if t.Each != "" {
		k.pattern(child(key, "each"), t.Each)
	}
	for i, pattern := range t.Exclude {
		k.pattern(item(child(key, "exclude"), i), pattern)
	}
	if t.Each == "" {
		k.noPath(child(key, "params"), t.Params)
	} else if t.Count > 1 {
		k.bad(child(key, "count"), "", "not together with each")
	}
	if t.Count < 0 || t.Count > MaxCount || t.Count == 0 && k.origin.given(child(key, "count")) {
		k.bad(child(key, "count"), "", "want 1 to %d, not %d", MaxCount, t.Count)
	}
	k.notNegative(child(key, "claim_ttl"), t.ClaimTTL)
	k.atLeast(child(key, "attempts"), t.Attempts, 0)
}

// capability checks that some worker could ever see a task that needs the capability.
func (k checker) capability(key, name string) {
	known := map[string]bool{}
	for _, a := range k.Agents {
		for capability := range a.Capabilities {
			known[capability] = true
		}
	}
	switch {
	case name == "":
		k.bad(key, "", "required")
	case !known[name] && !k.hasWorkersElsewhere():
		k.bad(key, suggest(name, "capabilities", slices.Sorted(maps.Keys(known))), "no worker has the capability %q", clip(name))
	}
}

func (k checker) pattern(key, pattern string) {
	isRelative := !strings.HasPrefix(pattern, "/") && !slices.Contains(strings.Split(pattern, "/"), "..")
	if pattern == "" || !isRelative || !doublestar.ValidatePattern(pattern) {
		k.bad(key, `patterns are such as "**/*.go", below the folder in`, "not a pattern of files: %q", clip(pattern))
	}
}

// noPath refuses {path} in the parameters of a task that is not for files.
func (k checker) noPath(key string, value any) {
	switch value := value.(type) {
	case string:
		if strings.Contains(value, "{path}") {
			k.bad(key, "", "{path} needs each")
		}
	case []any:
		for i, element := range value {
			k.noPath(item(key, i), element)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			k.noPath(child(key, name), value[name])
		}
	}
}
