package config_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

func TestErrorsOfModelsNameKeyAndRemedy(t *testing.T) {
	const good = "provider: openai, model: m, api_key: {env: K}"
	for _, c := range []struct{ model, want, hint string }{
		{"model: m, api_key: {env: K}", "models.main.provider: required", "known values: openai (and all that speak its chat completions), anthropic"},
		{"provider: opnai, model: m, api_key: {env: K}", `models.main.provider: unknown value "opnai"`, `did you mean "openai"?`},
		{"provider: openai, api_key: {env: K}", "models.main.model: required", "the name that the provider has for it"},
		{"provider: openai, model: m", "models.main.api_key: required without base_url", "say where it is: {env: OPENAI_API_KEY} or {file: PATH}"},
		{"provider: anthropic, model: m", "models.main.api_key: required without base_url", "say where it is: {env: ANTHROPIC_API_KEY} or {file: PATH}"},
		{"provider: openai, model: m, api_key: sk-123", "models.main.api_key: a secret does not stand in a configuration", "say where it is: {file: PATH} or {env: VARIABLE}"},
		{"provider: openai, model: m, api_key: {env: K, file: f}", "models.main.api_key.env: not together with file", ""},
		{good + ", base_url: models.example", "models.main.base_url: not an address of http or https", "write it such as https://api.example.org/v1"},
		{good + ", base_url: 'https://u:p@x'", "models.main.base_url: want neither user, query nor fragment", "a key belongs into api_key"},
		{good + ", base_url: 'http://x.example/v1'", "models.main.base_url: http to another machine shows the key to whoever is on the way", "use https"},
		{good + ", temperature: 3", "models.main.temperature: want 0 to 2, not 3", ""},
		{good + ", temperature: warm", `models.main.temperature: want a number from 0 to 1e9 such as 0.5, not "warm"`, ""},
		{good + ", price: {input: -1}", `models.main.price.input: want a number from 0 to 1e9 such as 0.5, not "-1"`, ""},
		{good + ", max_tokens: -1", "models.main.max_tokens: want at least 0, not -1", ""},
	} {
		_, err := config.Parse("c.yaml", []byte("network: n\nmodels: {main: {"+c.model+"}}\n"), config.Options{})
		expectProblem(t, c.model, err, c.want, c.hint)
	}
}

func expectProblem(t *testing.T, text string, err error, want, hint string) {
	t.Helper()
	list := problems(t, err)
	if len(list) == 0 {
		t.Errorf("%s is accepted", text)
		return
	}
	_, got, _ := strings.Cut(list[0].Error(), ": ")
	if got != want || list[0].Hint != hint {
		t.Errorf("%s\ngot  %s", text, describe(list))
	}
	if strings.Contains(describe(list), "sk-123") {
		t.Errorf("%s: the key shows", text)
	}
}

func TestErrorsOfAgentsWithModelsNameKeyAndRemedy(t *testing.T) {
	const good = "name: a, kind: llm, model: main, capabilities: {write: write}"
	for _, c := range []struct{ agent, want, hint string }{
		{"name: a, kind: llm, capabilities: {write: w}", "agents[0].model: required", "known models: main"},
		{"name: a, kind: llm, model: mian, capabilities: {write: w}", `agents[0].model: unknown model "mian"`, `did you mean "main"?`},
		{"name: a, kind: llm, model: main", "agents[0]: an agent without capabilities and peers has nothing to do", "capabilities: {NAME: what to do for such tasks} has it claim tasks, peers: [NAME] has it answer messages"},
		{"name: a, kind: llm, model: main, capabilities: {write: ''}", "agents[0].capabilities.write: required", "write what the model is to do for tasks of this capability"},
		{good + ", tools: [cat, cta]", `agents[0].tools[1]: unknown tool "cta"`, `did you mean "cat"?`},
		{good + ", tools: [cat, cat]", `agents[0].tools[1]: "cat" is given twice`, ""},
		{good + ", peers: [b]", `agents[0].peers[0]: unknown agent "b"`, "known agents: a, w"},
		{good + ", peers: [a]", `agents[0].peers[0]: "a" is the agent itself`, ""},
		{good + ", peers: [w, w]", `agents[0].peers[1]: "w" is given twice`, ""},
		{good + ", submits: [raed]", `agents[0].submits[0]: no worker has the capability "raed"`, `did you mean "read"?`},
		{good + ", instructions: x, instructions_file: y", "agents[0].instructions_file: not together with instructions", ""},
		{good + ", budget: {day: {cost: 5}}", "agents[0].budget.day.cost: the model has no price", "give models.main.price: {input: …, output: …}, for a million tokens"},
		{good + ", budget: {task: {calls: -1}}", "agents[0].budget.task.calls: want at least 0, not -1", ""},
		{good + ", budget: {week: {}}", "agents[0].budget.week: unknown key", "known keys: task, day"},
		{good + ", history: 1KiB", "agents[0].history: want 4KiB to 64MiB, not 1KiB", ""},
		{good + ", deadline: 1s", "agents[0].deadline: not for an agent with a model", ""},
		{"name: a, kind: worker, model: main, tools: [cat], capabilities: {write: cat}", "agents[0].model: not for an agent without a model", ""},
	} {
		text := "network: n\ntools: {cat: {command: [cat]}}\nmodels: {main: {provider: openai, model: m, api_key: {env: K}}}\nagents:\n- {" +
			c.agent + "}\n- {name: w, kind: worker, tools: [cat], capabilities: {read: cat}}\n"
		_, err := config.Parse("c.yaml", []byte(text), config.Options{})
		expectProblem(t, c.agent, err, c.want, c.hint)
	}
}

func TestModelsAndTheirAgentsAreRead(t *testing.T) {
	const text = `network: n
tools: {cat: {command: [cat]}}
models:
  main:
    provider: anthropic
    model: big
    base_url: http://127.0.0.1:1
    api_key: {file: keys/main}
    temperature: 0
    timeout: 30s
    price: {input: 3, output: 15.5}
agents:
- name: a
  kind: llm
  model: main
  instructions_file: a.md
  capabilities: {write: "write well"}
  tools: [cat]
  peers: [b]
  submits: [write]
  budget: {task: {calls: 5, tokens: 1000, tool_calls: 2, cost: 0.25}, day: {cost: 10}}
  history: 64KiB
- {name: b, kind: llm, model: main, peers: [a]}
`
	c, err := config.Parse(filepath.FromSlash("etc/c.yaml"), []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, a := c.Models["main"], c.Agents[0]
	if m.APIKey.File != filepath.FromSlash("etc/keys/main") || m.Temperature != (config.Number{Value: 0, Given: true}) || m.Price.Output.Value != 15.5 || time.Duration(m.Timeout) != 30*time.Second {
		t.Errorf("%+v", m)
	}
	if a.InstructionsFile != filepath.FromSlash("etc/a.md") || a.LLM.Peers[0] != "b" || a.Budget.Task.Cost.Value != 0.25 || a.Budget.Day.Cost.Value != 10 || a.History != 64<<10 {
		t.Errorf("%+v", a)
	}
}
