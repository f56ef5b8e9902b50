package network

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/llm/anthropic"
	"github.com/converge-agents/converge/llm/openai"
	"github.com/converge-agents/converge/transport/nats"
)

// model is a provider that closes its connections.
type model interface {
	llm.Provider
	Close()
}

// addModels makes the providers of the models that agents ask. Its errors say which key to set.
func (n *Network) addModels() error {
	used := map[string]bool{}
	for _, a := range n.config.Agents {
		if a.Kind == config.KindLLM {
			used[a.Model] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		m, err := newModel(n.config.Models[name])
		if err != nil {
			return fmt.Errorf("models.%s.%w", name, err)
		}
		if n.models == nil {
			n.models = map[string]model{}
		}
		n.models[name] = m
	}
	return nil
}

func newModel(m config.Model) (model, error) {
	key, err := keyOf(m)
	if err != nil {
		return nil, err
	}
	endpoint := llm.Endpoint{BaseURL: m.BaseURL, Key: key, Silence: silenceOf(m)}
	if m.Provider == config.ProviderAnthropic {
		p, err := anthropic.New(anthropic.Config{Model: m.Model, Endpoint: endpoint})
		return p, inSection(err)
	}
	p, err := openai.New(openai.Config{Model: m.Model, Endpoint: endpoint})
	return p, inSection(err)
}

// silenceOf returns how long a server may say nothing: for the whole time of a call if it answers in one piece. 0 is the
// default.
func silenceOf(m config.Model) time.Duration {
	if m.Stream {
		return 0
	}
	return time.Duration(m.Timeout)
}

// inSection is an error that goes after the name of a section.
func inSection(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("api_key: %w", err) // all else has been checked
}

// keyOf reads a model's key.
func keyOf(m config.Model) (llm.Key, error) {
	if m.APIKey == (config.Secret{}) {
		return llm.Key{}, nil
	}
	secret, err := nats.Secret(m.APIKey).Read()
	if err == nil {
		return llm.NewKey(secret), nil
	}
	hint := "write the key into that file, or name a variable that holds it: api_key: {env: " + m.KeyVariable() + "}"
	if m.APIKey.Env != "" {
		hint = "export " + m.APIKey.Env + "=…, or name a file that holds the key: api_key: {file: PATH}"
	}
	return llm.Key{}, advice.On(fmt.Errorf("api_key: %w", err), hint)
}

// setLLM makes the agent ask a model. Its peers are introduced once all agents have their keys.
func (n *Network) setLLM(a config.Agent, c *converge.Config, m *member) error {
	l, err := n.llmConfig(a, m)
	if err != nil {
		return err
	}
	if m.llm, err = llm.New(l); err != nil {
		return err
	}
	n.metrics.AddModel(a.Name, a.Model, m.llm)
	m.peers = a.LLM.Peers
	c.Agent, c.Capabilities, c.TaskKinds = m.llm, m.llm.Capabilities(), m.llm.Kinds()
	if len(c.TaskKinds) == 0 { // none would mean all
		c.TurnTasks = 1
	}
	return nil
}

func (n *Network) llmConfig(a config.Agent, m *member) (llm.Config, error) {
	instructions, err := instructionsOf(a)
	if err != nil {
		return llm.Config{}, err
	}
	name := m.name
	runtime := func() *converge.Runtime { return n.runtimeOf(name) }
	l := settingsOf(n.config, a)
	l.ID, l.Name, l.Provider, l.Instructions = m.id, m.name, n.models[a.Model], instructions
	l.Tools, l.Offers, l.Known, l.Verifier, l.Logger = n.tools, n.offersOf, n.capabilities(), n.proofs, n.log
	l.Record = recordExchanges(runtime)
	if n.auditConfig().Content {
		l.Journal = recordJournal(l.Model, runtime)
	}
	return l, nil
}

// settingsOf returns what the configuration alone says about an agent.
func settingsOf(c *config.Config, a config.Agent) llm.Config {
	cm := c.Models[a.Model]
	l := llm.Config{
		Model: cm.Model, Capabilities: a.Capabilities, Allowlist: a.Tools, Submits: a.Submits,
		Concurrency: a.Concurrency, MaxTokens: cm.MaxTokens, Stream: cm.Stream,
		CallTimeout: time.Duration(cm.Timeout), TaskTimeout: time.Duration(a.TaskTimeout), MaxTurns: a.MaxTurns, MaxDepth: a.MaxDepth, MaxHistory: int(a.History),
		TaskBudget: budgetOf(a.Budget.Task), DayBudget: budgetOf(a.Budget.Day),
		Price: llm.Price{Input: cm.Price.Input.Value, Output: cm.Price.Output.Value}, Retry: llm.Retry{Attempts: cm.Attempts},
	}
	if cm.Temperature.Given {
		l.Temperature = &cm.Temperature.Value
	}
	return l
}

// runtimeOf returns the runtime of an agent of this process, or nil while it has none.
func (n *Network) runtimeOf(name string) *converge.Runtime {
	if m := n.memberNamed(name); m != nil {
		return m.runtime
	}
	return nil
}

func budgetOf(b config.Budget) llm.Budget {
	return llm.Budget{Calls: b.Calls, Tokens: b.Tokens, ToolCalls: b.ToolCalls, Cost: b.Cost.Value}
}

// maxInstructions bounds what every call of a model begins with, in bytes.
const maxInstructions = 64 << 10

func instructionsOf(a config.Agent) (string, error) {
	if a.InstructionsFile == "" {
		return a.Instructions, nil
	}
	data, err := os.ReadFile(a.InstructionsFile)
	if err != nil {
		return "", advice.On(fmt.Errorf("instructions_file: %w", err), "the path is relative to the folder of the configuration")
	}
	if len(data) > maxInstructions {
		return "", fmt.Errorf("instructions_file: %s has %d bytes where at most %d are allowed", a.InstructionsFile, len(data), maxInstructions)
	}
	return string(data), nil
}

// introduce tells agents with models who their peers are.
func (n *Network) introduce() error {
	for i := range n.members {
		m := &n.members[i]
		for _, name := range m.peers {
			id := n.peerNamed(name)
			if other := n.memberNamed(name); other != nil {
				id = other.id
			}
			if err := m.llm.Introduce(llm.Peer{Name: name, ID: id}); err != nil {
				return fmt.Errorf("agent %q: peers: %w", m.name, err)
			}
		}
	}
	return nil
}

// offersPatience bounds how long it is looked up what a peer can do. Discovery keeps that in memory.
const offersPatience = 50 * time.Millisecond

// offersOf returns the capabilities that an agent announces.
func (n *Network) offersOf(id identity.ID) (names []string) {
	ctx, cancel := context.WithTimeout(n.aborted, offersPatience)
	defer cancel()
	d, err := n.discovery.Lookup(ctx, id)
	if err != nil {
		return nil
	}
	for _, c := range d.Capabilities {
		names = append(names, c.Name)
	}
	return names
}

// capabilities returns the names of all that agents of the configuration can do.
func (n *Network) capabilities() (names []string) {
	for _, a := range n.config.Agents {
		names = slices.AppendSeq(names, maps.Keys(a.Capabilities))
	}
	return names
}

func (n *Network) closeModels() {
	for _, m := range n.models {
		m.Close()
	}
}
