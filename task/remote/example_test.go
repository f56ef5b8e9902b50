package remote_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport/local"
)

// A coordinator submits a task where the tasks are; a worker, who has nothing but messages, does it.
func Example() {
	registry := identity.NewRegistry(0)
	wires := must(local.New(local.Config{})) // in earnest, a network between machines
	config := func() converge.Config {
		id := must(identity.Generate())
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			panic(err)
		}
		return converge.Config{Identity: id, Network: "example", Registry: registry, Transport: wires.Endpoint(id.ID()), Logger: quiet}
	}

	// One process has the tasks, a coordinator, and a host for others.
	entries := must(memory.New(memory.Config{}))
	defer entries.Close()
	verifier := must(task.NewVerifier(registry, "example"))
	tasks := must(task.New(task.Config{Store: entries, Verifier: verifier, Logger: quiet}))
	host := config()
	host.Agent = must(role.NewHost(remote.HostConfig{Tasks: tasks, Allow: remote.AllowAll, Logger: quiet}))
	host.SendTimeout = role.HostSendTimeout
	boss := config()
	coordinator := must(role.NewCoordinator(role.CoordinatorConfig{ID: boss.Identity.ID(), Verifier: verifier, Tasks: []task.Spec{
		{Kind: "shout", Capabilities: []string{"shout"}, Params: json.RawMessage(`{}`)},
	}}))
	boss.Agent, boss.Tasks = coordinator, tasks

	// Another one has a worker.
	tools := tool.NewRegistry()
	tools.Register(tool.Func("shout", func(context.Context, json.RawMessage) (tool.Output, error) {
		return tool.Output{Data: []byte("HELLO"), ContentType: "text/plain"}, nil
	}), tool.Options{})
	work := config()
	worker := must(role.NewWorker(role.WorkerConfig{ID: work.Identity.ID(), Tools: map[string]string{"shout": "shout"}}))
	work.Agent, work.Capabilities, work.TaskKinds = worker, worker.Capabilities(), worker.Kinds()
	work.Executor = &converge.ExecutorConfig{Tools: tools, ToolAllowlist: []string{"shout"}}
	work.Tasks = must(remote.New(remote.Config{Host: host.Identity.ID()}))

	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, c := range []converge.Config{host, boss, work} {
		running.Go(func() { must(converge.New(c)).Run(ctx) })
	}
	<-coordinator.Done()
	outcome := coordinator.Outcomes()[0]
	fmt.Println(outcome.Task.Status, string(outcome.Task.Result), outcome.Signed)
	fmt.Println("done by the worker:", outcome.Task.Claimant == work.Identity.ID())
	stop()
	running.Wait()
	// Output:
	// completed HELLO true
	// done by the worker: true
}
