package network_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/network"
)

func Example() {
	c, err := config.Parse("greetings.yaml", []byte(`
network: greetings
tools:
  echo: {command: [cat], stdin: "hello, {name}"}
agents:
  - {name: worker, kind: worker, capabilities: {greet: echo}, tools: [echo]}
  - name: coordinator
    kind: coordinator
    tasks: [{name: ada, capability: greet, params: {name: Ada}}]
`), config.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	n, err := network.New(ctx, c, network.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	go func() {
		<-n.Done()
		stop()
	}()
	if err := n.Run(ctx); err != nil {
		fmt.Println(err)
		return
	}
	r := n.Report()
	r.ElapsedMS, r.Audit = 42, network.AuditReport{} // for the sake of the example
	r.Write(os.Stdout)

	// Output:
	// task  task result  agents
	// ada   hello, Ada   worker
	//
	// network greetings: 2 agents, 42ms
	// tasks      1 submitted, 1 completed, 0 failed
	// messages   0 signed, 0 verified, 0 refused
	// tools      1 run, 0 denied, 0 timed out
	// limited    0 in, 0 out
}
