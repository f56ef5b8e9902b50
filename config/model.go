package config

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/converge-agents/converge/internal/loopback"
)

// The providers of models.
const (
	ProviderOpenAI    = "openai"    // chat completions: OpenAI, and Mistral, Ollama, vLLM and others by their BaseURL
	ProviderAnthropic = "anthropic" // messages
)

// Model describes a language model, and where it is.
type Model struct {
	// Provider is [ProviderOpenAI] or [ProviderAnthropic]; required.
	Provider string `key:"provider"`
	// Model is its name at the server; required.
	Model string `key:"model"`
	// BaseURL is the server's address: for openai with /v1 or the like, for anthropic without. Default "", which is
	// the provider's own.
	BaseURL string `key:"base_url"`
	// APIKey is where the key is. Required without BaseURL. It goes over https only, or to this machine.
	APIKey Secret `key:"api_key"`
	// MaxTokens bounds one answer. Default 0, which is 4096.
	MaxTokens int `key:"max_tokens"`
	// Temperature is how much chance there is in an answer, 0 to 2. Default: the model's own.
	Temperature Number `key:"temperature"`
	// Timeout bounds one call. Default 0, which is 2m.
	Timeout Duration `key:"timeout"`
	// Attempts is how often a server is asked that is overloaded or fails, in all. Default 0, which is 5.
	Attempts int `key:"attempts"`
	// Stream asks for answers in pieces, so that a server that falls silent is noticed earlier. Default false.
	Stream bool `key:"stream"`
	// Price is what a million tokens cost; agents need it for budgets of cost.
	Price Price `key:"price"`
}

// Price is what a million tokens cost, in any currency. Default 0.
type Price struct {
	Input  Number `key:"input"`
	Output Number `key:"output"`
}

// Number is a number that is not negative. The zero Number was not given, and counts as 0.
type Number struct {
	Value float64
	Given bool
}

const maxNumber = 1e9

// String returns the number, or "" if none was given.
func (n Number) String() string {
	if !n.Given {
		return ""
	}
	return strconv.FormatFloat(n.Value, 'g', -1, 64)
}

// MarshalText returns [Number.String].
func (n Number) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads a number from 0 to 1e9.
func (n *Number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(v >= 0 && v <= maxNumber) || math.Signbit(v) {
		return &Error{Msg: fmt.Sprintf("want a number from 0 to 1e9 such as 0.5, not %q", clip(string(text)))}
	}
	*n = Number{v, true}
	return nil
}

// Budget bounds what is used up. 0 is the default, see llm.DefaultTaskBudget and llm.DefaultDayBudget.
type Budget struct {
	Calls     int    `key:"calls"`      // of the model
	Tokens    int    `key:"tokens"`     // in and out
	ToolCalls int    `key:"tool_calls"` // that the model asks for and that are let through
	Cost      Number `key:"cost"`       // in the currency of the model's price. Default: no bound
}

// Budgets bound a task and a day (UTC).
type Budgets struct {
	Task Budget `key:"task"`
	Day  Budget `key:"day"`
}

func (k checker) models() {
	for _, name := range slices.Sorted(maps.Keys(k.Models)) {
		key, m := child("models", name), k.Models[name]
		if !isName(name) {
			k.bad(key, nameHint, "not a model's name")
		}
		if m.Provider == "" {
			k.bad(child(key, "provider"), "known values: openai (and all that speak its chat completions), anthropic", "required")
		} else {
			k.oneOf(child(key, "provider"), m.Provider, ProviderOpenAI, ProviderAnthropic)
		}
		if m.Model == "" {
			k.bad(child(key, "model"), "the name that the provider has for it", "required")
		}
		k.endpoint(key, m)
		k.atLeast(child(key, "max_tokens"), m.MaxTokens, 0)
		k.atLeast(child(key, "attempts"), m.Attempts, 0)
		k.notNegative(child(key, "timeout"), m.Timeout)
		if m.Temperature.Value < 0 || m.Temperature.Value > 2 {
			k.bad(child(key, "temperature"), "", "want 0 to 2, not %s", m.Temperature)
		}
	}
}

// KeyVariable returns the environment variable that the provider's own programs read their key from.
func (m Model) KeyVariable() string {
	if m.Provider == ProviderAnthropic {
		return "ANTHROPIC_API_KEY"
	}
	return "OPENAI_API_KEY"
}

func (k checker) endpoint(key string, m Model) {
	k.secret(child(key, "api_key"), m.APIKey)
	if m.BaseURL == "" {
		if m.APIKey == (Secret{}) {
			k.bad(child(key, "api_key"), fmt.Sprintf("say where it is: {env: %s} or {file: PATH}", m.KeyVariable()), "required without base_url")
		}
		return
	}
	u, err := url.Parse(m.BaseURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http": // err repeats it
		k.bad(child(key, "base_url"), "write it such as https://api.example.org/v1", "not an address of http or https")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		k.bad(child(key, "base_url"), "a key belongs into api_key", "want neither user, query nor fragment")
	case u.Scheme == "http" && !loopback.Is(u.Hostname()) && m.APIKey != (Secret{}):
		k.bad(child(key, "base_url"), "use https", "http to another machine shows the key to whoever is on the way")
	}
}

func (m Model) complete(o origin, key string) Model {
	m.APIKey.File = o.path(child(child(key, "api_key"), "file"), m.APIKey.File)
	return m
}

// LLM are the keys of agents of the kind llm, besides those that they share with workers: Capabilities, each with what is
// to be done for such tasks, Tools, Concurrency and ToolTimeout.
type LLM struct {
	// Model is the one of Config.Models that decides; required.
	Model string `key:"model"`
	// Instructions say what the agent is for, and InstructionsFile names a file that does.
	Instructions     string `key:"instructions"`
	InstructionsFile string `key:"instructions_file"`
	// Peers are the agents, of this process or of Config.Peers, that the model may send messages to and is shown
	// messages of. Default none.
	Peers []string `key:"peers"`
	// Submits are the capabilities that the model may submit tasks for. Default none.
	Submits []string `key:"submits"`
	// Budget bounds a task, or the messages of one peer, and a day.
	Budget Budgets `key:"budget"`
	// TaskTimeout bounds a task, from its claim on. Default 0, which is 15m.
	TaskTimeout Duration `key:"task_timeout"`
	// MaxTurns bounds the answers of the model in a conversation. Default 0, which is 48.
	MaxTurns int `key:"max_turns"`
	// MaxDepth bounds how many agents with models have a part in a task, each submitting to the next. Default 0, which is 4.
	MaxDepth int `key:"max_depth"`
	// History bounds how much of a conversation the model is shown, from 4KiB. Default 0, which is 256KiB.
	History Size `key:"history"`
}

// llmKeys are the keys that only agents with a model have.
var llmKeys = []string{
	"model", "instructions", "instructions_file", "peers", "submits", "budget", "task_timeout", "max_turns", "max_depth", "history",
}

func (k checker) llm(key string, a Agent) {
	if a.Model == "" {
		k.bad(child(key, "model"), suggest("", "models", slices.Sorted(maps.Keys(k.Models))), "required")
	} else if _, ok := k.Models[a.Model]; !ok {
		k.bad(child(key, "model"), suggest(a.Model, "models", slices.Sorted(maps.Keys(k.Models))), "unknown model %q", clip(a.Model))
	}
	if a.Instructions != "" && a.InstructionsFile != "" {
		k.bad(child(key, "instructions_file"), "", "not together with instructions")
	}
	if len(a.Capabilities) == 0 && len(a.Peers) == 0 {
		k.bad(key, "capabilities: {NAME: what to do for such tasks} has it claim tasks, peers: [NAME] has it answer messages", "an agent without capabilities and peers has nothing to do")
	}
	k.hands(key, a)
	for _, capability := range slices.Sorted(maps.Keys(a.Capabilities)) {
		at := child(child(key, "capabilities"), capability)
		if !isName(capability) {
			k.bad(at, nameHint, "not a capability's name")
		} else if strings.TrimSpace(a.Capabilities[capability]) == "" {
			k.bad(at, "write what the model is to do for tasks of this capability", "required")
		}
	}
	k.llmPeers(key, a)
	for i, capability := range a.Submits {
		k.capability(item(child(key, "submits"), i), capability)
	}
	k.llmBounds(key, a)
}

// llmPeers checks the names of those that an agent with a model may write to.
func (k checker) llmPeers(key string, a Agent) {
	known := map[string]bool{}
	for _, other := range k.Agents {
		for _, name := range other.Names() {
			known[name] = true
		}
	}
	for _, p := range k.Peers {
		known[p.Name] = true
	}
	for i, name := range a.LLM.Peers {
		at := item(child(key, "peers"), i)
		switch {
		case !known[name]:
			k.bad(at, suggest(name, "agents", slices.Sorted(maps.Keys(known))), "unknown agent %q", clip(name))
		case slices.Contains(a.Names(), name):
			k.bad(at, "", "%q is the agent itself", clip(name))
		case slices.Contains(a.LLM.Peers[:i], name):
			k.bad(at, "", "%q is given twice", clip(name))
		}
	}
}

func (k checker) llmBounds(key string, a Agent) {
	for name, b := range map[string]Budget{"task": a.Budget.Task, "day": a.Budget.Day} {
		at := child(child(key, "budget"), name)
		k.atLeast(child(at, "calls"), b.Calls, 0)
		k.atLeast(child(at, "tokens"), b.Tokens, 0)
		k.atLeast(child(at, "tool_calls"), b.ToolCalls, 0)
		if m := k.Models[a.Model]; b.Cost.Value > 0 && m.Price.Input.Value == 0 && m.Price.Output.Value == 0 {
			k.bad(child(at, "cost"), fmt.Sprintf("give %s: {input: …, output: …}, for a million tokens", child(child("models", a.Model), "price")), "the model has no price")
		}
	}
	k.notNegative(child(key, "task_timeout"), a.TaskTimeout)
	k.atLeast(child(key, "max_turns"), a.MaxTurns, 0)
	k.atLeast(child(key, "max_depth"), a.MaxDepth, 0)
	if a.History != 0 && (a.History < 4<<10 || a.History > 64<<20) {
		k.bad(child(key, "history"), "", "want 4KiB to 64MiB, not %s", a.History)
	}
}
