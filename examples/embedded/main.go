// Command embedded is the quickstart's job from Go: a coordinator has a worker count the lines of files.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func main() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	registry := identity.NewRegistry(0)
	network := must(local.New(local.Config{}))
	proofs := must(task.NewVerifier(registry, "embedded"))
	tasks := must(task.New(task.Config{Store: must(memory.New(memory.Config{})), Verifier: proofs}))
	tools := tool.NewRegistry()
	check(tools.Register(tool.Func("lines", countLines), tool.Options{Timeout: time.Second}))
	perSender := ratelimit.Limit{Rate: 10, Burst: 20} // messages a second, and at once
	limiter := must(ratelimit.New(ratelimit.Config{Global: ratelimit.Unlimited, Sender: perSender, Topic: ratelimit.Unlimited}))
	run := func(id *identity.Identity, c converge.Config) <-chan error {
		c.Identity, c.Network, c.Registry, c.Tasks = id, "embedded", registry, tasks
		c.Transport = network.Endpoint(c.Identity.ID())
		check(registry.Register(c.Identity.ID(), c.Identity.PublicKey()))
		runtime, ended := must(converge.New(c)), make(chan error, 1)
		go func() { ended <- runtime.Run(ctx) }()
		return ended
	}
	worker := must(role.NewWorker(role.WorkerConfig{Tools: map[string]string{"count": "lines"}}))
	workerEnded := run(must(identity.Generate()), converge.Config{Agent: worker, Capabilities: worker.Capabilities(), Executor: &converge.ExecutorConfig{
		Tools: tools, ToolAllowlist: []string{"lines"},
	}})
	boss := must(identity.Generate())
	coordinator := must(role.NewCoordinator(role.CoordinatorConfig{ID: boss.ID(), Verifier: proofs, Tasks: []task.Spec{
		{Kind: "count", Capabilities: []string{"count"}, Params: json.RawMessage(`{"File": "go.mod"}`)},
		{Kind: "count", Capabilities: []string{"count"}, Params: json.RawMessage(`{"File": "README.md"}`)},
	}}))
	coordinatorEnded := run(boss, converge.Config{Agent: coordinator, Hooks: []transport.Hook{ratelimit.NewHook(limiter)}})
	<-coordinator.Done()
	for _, o := range coordinator.Outcomes() {
		fmt.Printf("%s: %s lines, signed %t by %s, error %v\n", o.Task.Params, o.Task.Result, o.Signed, o.Task.Claimant.Short(), o.Err)
	}
	stop()
	check(errors.Join(<-workerEnded, <-coordinatorEnded))
}

func countLines(_ context.Context, params json.RawMessage) (tool.Output, error) {
	var p struct{ File string }
	if err := json.Unmarshal(params, &p); err != nil {
		return tool.Output{}, err
	}
	text, err := os.ReadFile(p.File)
	return tool.Output{Data: fmt.Append(nil, bytes.Count(text, []byte("\n"))), ContentType: "text/plain"}, err
}

func must[T any](v T, err error) T { check(err); return v }
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
