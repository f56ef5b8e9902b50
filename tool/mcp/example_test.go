package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/mcp"
)

func Example() {
	self, err := os.Executable() // a server that adds; others are such as "npx" or "uvx" start
	if err != nil {
		panic(err)
	}
	server, err := mcp.New(mcp.Config{
		Name:    "calculator",
		Command: []string{self},
		Env:     map[string]string{modeVariable: "good"},
		Tools:   []string{"add"}, // what else it offers does not exist
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	if err := server.Start(context.Background()); err != nil {
		panic(err)
	}
	tools := tool.NewRegistry()
	for _, t := range server.Tools() {
		if err := tools.Register(t, tool.Options{}); err != nil { // description, schema and hints are the server's
			panic(err)
		}
	}
	guard, err := tool.NewGuard(tool.GuardConfig{Tools: tools, Allowlist: []string{"calculator.add"}})
	if err != nil {
		panic(err)
	}
	out, err := guard.Run(context.Background(), "calculator.add", json.RawMessage(`{"a": 40, "b": 2}`))
	fmt.Println(string(out.Data), err)
	// Output: {"sum":42} <nil>
}
