package llm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport/local"
)

const network = "test.example"

// The cast: Alice submits, Paula plans, Will writes, Mallory is a verified agent of bad faith.
var alice, paula, will, mallory = agent(1), agent(2), agent(3), agent(66)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// model is a provider of these tests: a function. It answers at once, unless the function waits.
type model func(ctx context.Context, r llm.Request) (llm.Response, error)

func (m model) Chat(ctx context.Context, r llm.Request) (llm.Response, error) { return m(ctx, r) }

// says is a model that answers by the number of the answer.
func says(answers ...llm.Response) model {
	var mu sync.Mutex
	n := 0
	return func(context.Context, llm.Request) (llm.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		answer := answers[min(n, len(answers)-1)]
		n++
		return answer, nil
	}
}

// calls is an answer that calls functions: name, arguments, name, arguments, …
func calls(pairs ...string) llm.Response {
	r := llm.Response{Stop: llm.StopCalls, Usage: llm.Usage{Input: 100, Output: 10}}
	for i := 0; i < len(pairs); i += 2 {
		r.Calls = append(r.Calls, llm.Call{ID: fmt.Sprintf("id%d", i), Name: pairs[i], Args: pairs[i+1]})
	}
	return r
}

func text(s string) llm.Response {
	return llm.Response{Text: s, Stop: llm.StopEnd, Usage: llm.Usage{Input: 100, Output: 10}}
}

func lastOf(r llm.Request) llm.Message { return r.Messages[len(r.Messages)-1] }

// allText is what the model has been shown besides the system prompt.
func allText(r llm.Request) string {
	var b strings.Builder
	for _, m := range r.Messages {
		b.WriteString(m.Text + "\n")
		for _, result := range m.Results {
			b.WriteString(result.Text + "\n")
		}
	}
	return b.String()
}

// plant is where the agents of a test work.
type plant struct {
	t        *testing.T
	tasks    *task.Manager
	tools    *tool.Registry
	wires    *local.Network
	registry *identity.Registry
	verifier *task.Verifier
	store    store.Store
	patience time.Duration // between two looks at a task
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	registry := identity.NewRegistry(0)
	verifier := must(task.NewVerifier(registry, network))
	tasks := must(task.New(task.Config{Store: entries, Logger: slog.New(slog.DiscardHandler), Verifier: verifier}))
	p := &plant{t, tasks, tool.NewRegistry(), must(local.New(local.Config{})), registry, verifier, entries, time.Minute}
	for _, id := range []*identity.Identity{alice, paula, will, mallory} {
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// tool registers a tool that returns what fn does.
func (p *plant) tool(name string, o tool.Options, fn func(params json.RawMessage) (string, error)) {
	p.t.Helper()
	err := p.tools.Register(tool.Func(name, func(_ context.Context, params json.RawMessage) (tool.Output, error) {
		text, err := fn(params)
		return tool.Output{Data: []byte(text), ContentType: "text/plain"}, err
	}), o)
	if err != nil {
		p.t.Fatal(err)
	}
}

// run runs an agent until stop is called, at the latest at the end of the test.
func (p *plant) run(id *identity.Identity, c converge.Config) (stop func()) {
	p.t.Helper()
	c.Identity, c.Network, c.Registry, c.Transport = id, network, p.registry, p.wires.Endpoint(id.ID())
	c.Logger, c.Tasks = slog.New(slog.DiscardHandler), p.tasks
	return testkit.Run(p.t, must(converge.New(c)))
}

// hire runs an agent with a model.
func (p *plant) hire(id *identity.Identity, c llm.Config, rest converge.Config) (a *llm.Agent, stop func()) {
	p.t.Helper()
	c.ID, c.Tools, c.Verifier, c.Logger = id.ID(), p.tools, p.verifier, slog.New(slog.DiscardHandler)
	a = must(llm.New(c))
	rest.Agent, rest.Capabilities, rest.TaskKinds = a, a.Capabilities(), a.Kinds()
	if rest.Executor == nil {
		rest.Executor = &converge.ExecutorConfig{}
	}
	rest.Executor.Tools, rest.Executor.ToolAllowlist = p.tools, c.Allowlist
	return a, p.run(id, rest)
}

// submit has Alice, who does not run, submit a task.
func (p *plant) submit(s task.Spec) string {
	p.t.Helper()
	s.Submitter, s.Capabilities = alice.ID(), []string{s.Kind}
	if s.ID == "" {
		s.ID = "task-" + s.Kind
	}
	if errs := must(task.NewSigner(alice, network)).SignSpecs(&s); errs != nil {
		p.t.Fatal(errs)
	}
	return must(p.tasks.Submit(p.t.Context(), s)).ID
}

// await returns a task once it has ended.
func (p *plant) await(id string) task.Task {
	p.t.Helper()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, p.patience) {
		t := must(p.tasks.Get(p.t.Context(), id))
		if t.Status.Terminal() {
			return t
		}
		time.Sleep(pause) // in a bubble, this lets the others go on
	}
}

// work is the config of an agent with one capability.
func work(m llm.Provider) llm.Config {
	return llm.Config{Provider: m, Capabilities: map[string]string{"work": "do it"}}
}

// decide is an agent that is a function.
type decide func(converge.Turn) []converge.Decision

func (d decide) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	return d(t), nil
}
