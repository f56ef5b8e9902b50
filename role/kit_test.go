package role_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

// The cast: Alice coordinates, Bob and Carol work, Mallory is a verified agent of bad faith.
var alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(66)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// proofs verifies what the cast signs.
// me is the coordinator that tests move by hand.
var me = alice.ID()

var proofs = verifierOf(alice, bob, carol, mallory)

// verifierOf returns a verifier that knows the agents.
func verifierOf(known ...*identity.Identity) *task.Verifier {
	registry := identity.NewRegistry(0)
	for _, id := range known {
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			panic(err)
		}
	}
	return must(task.NewVerifier(registry, network))
}

// ended is the record of a task of Alice's that the agent has completed, and signed.
func ended(id string, by *identity.Identity, result string) task.Task {
	return endedIn(network, task.Spec{ID: id, Kind: "work", Submitter: alice.ID()}, by, result)
}

func endedIn(network string, s task.Spec, by *identity.Identity, result string) task.Task {
	e := task.Completion(task.Claim{TaskID: s.ID, Agent: by.ID(), Epoch: 1, Submission: s.Digest()}, []byte(result), "")
	if errs := must(task.NewSigner(by, network)).SignEndings(&e); errs != nil {
		panic(errs[0])
	}
	return task.Task{
		Spec: s, Status: task.Completed, Claimant: by.ID(), Epoch: 1, Result: []byte(result), ResultProof: e.Proof,
	}
}

func expectDecisions(t *testing.T, when string, got []converge.Decision, want ...converge.Decision) {
	t.Helper()
	if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("%s: decided\n%s\nwant\n%s", when, show(got), show(want))
	}
}

func show(all []converge.Decision) string {
	var b bytes.Buffer
	for _, d := range all {
		fmt.Fprintf(&b, "  %s %.300s\n", d.Kind(), fmt.Sprintf("%+v", d))
	}
	return b.String()
}

// plant is where the agents of an end-to-end test work, in a bubble of fake time.
type plant struct {
	t        *testing.T
	tasks    *task.Manager
	tools    *tool.Registry
	wires    *local.Network
	registry *identity.Registry
	verifier *task.Verifier
	store    store.Store
}

// newPlant makes a plant whose task manager is c's.
func newPlant(t *testing.T, c task.Config) *plant {
	t.Helper()
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	registry := identity.NewRegistry(0)
	c.Store, c.Logger, c.Verifier = entries, slog.New(slog.DiscardHandler), must(task.NewVerifier(registry, network))
	return &plant{t, must(task.New(c)), tool.NewRegistry(), must(local.New(local.Config{})), registry, c.Verifier, entries}
}

// tool makes the capability of that name, which every worker has.
func (p *plant) tool(name string, fn func(ctx context.Context, params json.RawMessage) (tool.Output, error)) {
	p.t.Helper()
	if err := p.tools.Register(tool.Func(name, fn), tool.Options{}); err != nil {
		p.t.Fatal(err)
	}
}

// run runs an agent until stop is called, at the latest at the end of the test.
func (p *plant) run(id *identity.Identity, c converge.Config) (stop func()) {
	p.t.Helper()
	if err := p.registry.Register(id.ID(), id.PublicKey()); err != nil {
		p.t.Fatal(err)
	}
	c.Identity, c.Network, c.Registry, c.Transport = id, network, p.registry, p.wires.Endpoint(id.ID())
	c.Logger = slog.New(slog.DiscardHandler)
	if c.Tasks == nil {
		c.Tasks = p.tasks
	}
	return testkit.Run(p.t, must(converge.New(c)))
}

// submit has an agent that does not run submit a task.
func (p *plant) submit(by *identity.Identity, s task.Spec) {
	p.t.Helper()
	if err := p.registry.Register(by.ID(), by.PublicKey()); err != nil {
		p.t.Fatal(err)
	}
	if errs := must(task.NewSigner(by, network)).SignSpecs(&s); errs != nil {
		p.t.Fatal(errs)
	}
	must(p.tasks.Submit(p.t.Context(), s))
}

// worker runs a worker that has all tools.
func (p *plant) worker(id *identity.Identity, concurrency int) (stop func()) {
	p.t.Helper()
	return p.workerWith(id, concurrency, converge.Config{})
}

func (p *plant) workerWith(id *identity.Identity, concurrency int, rest converge.Config) (stop func()) {
	p.t.Helper()
	tools := map[string]string{}
	for _, name := range p.tools.Names() {
		tools[name] = name
	}
	w := must(role.NewWorker(role.WorkerConfig{ID: id.ID(), Tools: tools, Concurrency: concurrency}))
	rest.Agent, rest.Capabilities, rest.TaskKinds = w, w.Capabilities(), w.Kinds()
	if rest.Executor == nil {
		rest.Executor = &converge.ExecutorConfig{}
	}
	rest.Executor.Tools, rest.Executor.ToolAllowlist = p.tools, p.tools.Names()
	return p.run(id, rest)
}

// coordinator runs a coordinator.
func (p *plant) coordinator(id *identity.Identity, c role.CoordinatorConfig, rest converge.Config) *role.Coordinator {
	p.t.Helper()
	c.ID, c.Verifier = id.ID(), p.verifier
	k := must(role.NewCoordinator(c))
	rest.Agent = k
	p.run(id, rest)
	return k
}

// decide is an agent that is a function.
type decide func(converge.Turn) []converge.Decision

func (d decide) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	return d(t), nil
}

// specs returns n tasks of a kind, each with its number as param n.
func specs(n int, kind string) (all []task.Spec) {
	for i := range n {
		all = append(all, task.Spec{
			Kind: kind, Capabilities: []string{kind}, Params: fmt.Appendf(nil, `{"n":%d}`, i),
		})
	}
	return all
}
