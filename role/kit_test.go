package role_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

// The cast: Alice coordinates, Bob and Carol work, Mallory is a verified agent of bad faith.
var alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(66)

func agent(seed byte) *identity.Identity {
	return must(identity.FromSeed(bytes.Repeat([]byte{seed}, 32)))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// from returns a message of the sender.
func from(sender *identity.Identity, d message.Draft) *message.Message {
	signer := must(message.NewSigner(message.SignerConfig{Identity: sender, Network: network}))
	return must(signer.Sign(context.Background(), d))
}

func digestOf(result string) string {
	sum := sha256.Sum256([]byte(result))
	return hex.EncodeToString(sum[:])
}

// completed is what a worker has to say of a task with that result, in the bytes that it says it with.
func completed(result string) string {
	return fmt.Sprintf(`{"status":"completed","digest":%q}`, digestOf(result))
}

func failed(reason string) string {
	return fmt.Sprintf(`{"status":"failed","error":%s}`, must(json.Marshal(reason)))
}

// statement is the message in which sender says that of a task.
func statement(sender *identity.Identity, taskID, body string) *message.Message {
	return from(sender, message.Draft{To: alice.ID(), TaskID: taskID, Body: []byte(body), ContentType: role.StatementType})
}

// request is the message in which sender asks for the statement on a task.
func request(sender *identity.Identity, taskID string) *message.Message {
	return from(sender, message.Draft{To: bob.ID(), TaskID: taskID, ContentType: role.RequestType})
}

// ended is the record of a task of Alice's that the agent has completed.
func ended(id string, by *identity.Identity, result string) task.Task {
	return task.Task{
		Spec: task.Spec{ID: id, Kind: "work", Submitter: alice.ID()}, Status: task.Completed,
		Claimant: by.ID(), Epoch: 1, Result: []byte(result),
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
		if m, ok := d.(converge.SendMessage); ok {
			fmt.Fprintf(&b, "    body %.300s\n", m.Draft.Body)
		}
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
}

// newPlant makes a plant whose task manager is c's.
func newPlant(t *testing.T, c task.Config) *plant {
	t.Helper()
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	c.Store, c.Logger = entries, slog.New(slog.DiscardHandler)
	return &plant{t, must(task.New(c)), tool.NewRegistry(), must(local.New(local.Config{})), identity.NewRegistry(0)}
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
	r := must(converge.New(c))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			p.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	p.t.Cleanup(stop)
	return stop
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
	k := must(role.NewCoordinator(c))
	rest.Agent = k
	p.run(id, rest)
	return k
}

// silent runs an agent that claims what is of that kind and completes it, but never vouches for it.
func (p *plant) silent(id *identity.Identity, kind, result string) (stop func()) {
	return p.run(id, converge.Config{
		Agent: decide(func(t converge.Turn) (all []converge.Decision) {
			for _, pending := range t.Tasks {
				all = append(all, converge.ClaimTask{TaskID: pending.ID})
			}
			for _, claimed := range t.Claimed {
				all = append(all, converge.ReportTask{TaskID: claimed.ID, Result: []byte(result)})
			}
			return all
		}),
		Capabilities: []discovery.Capability{{Name: kind}},
	})
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
