package converge_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/converge-agents/converge"

// floors is the plan of the house (docs/architecture.md): a package imports packages of lower floors only.
var floors = map[string]int{
	"internal/advice":    0,
	"internal/brief":     0,
	"internal/capture":   0,
	"internal/cose":      0,
	"internal/cut":       0,
	"internal/group":     0,
	"internal/held":      0,
	"internal/inflight":  0,
	"internal/keywork":   0,
	"internal/listeners": 0,
	"internal/loopback":  0,
	"internal/ondisk":    0,
	"internal/names":     0,
	"internal/nearest":   0,
	"internal/panics":    0,
	"internal/pgtest":    0,
	"internal/process":   0,
	"internal/queue":     0,
	"internal/sandbox":   0,
	"internal/sleep":     0,
	"internal/stat":      0,
	"internal/template":  0,
	"store":              0,
	"taint":              0,

	"identity":         1,
	"internal/changes": 1,
	"store/storetest":  1,
	"policy":           1,
	"tool":             1,

	"audit":          2,
	"message":        2,
	"store/memory":   2,
	"store/natskv":   2,
	"store/postgres": 2,
	"store/sqlite":   2,
	"tool/command":   2,
	"tool/http":      2,
	"tool/wasm":      2,
	"approval":       2,
	"tool/mcp":       2,

	"internal/testkit": 2,
	"internal/peertls": 2,
	"internal/proof":   2,

	"control":          3,
	"discovery":        3,
	"discovery/gossip": 4,
	"pool":             3,
	"ratelimit":        3,
	"internal/topics":  3,
	"task":             3,
	"transport":        3,

	"transport/local":         4,
	"transport/nats":          4,
	"task/remote":             4,
	"internal/tasktest":       4,
	"internal/mesh":           4,
	"internal/recording":      4,
	"transport/transporttest": 4,

	"transport/tcp":       5,
	"transport/websocket": 5,

	"": 6, // package converge

	"llm":    7,
	"replay": 7,
	"role":   7,

	"config":                8,
	"llm/internal/provider": 8,
	"llm/llmtest":           8,
	"observe":               8,

	"llm/anthropic": 9,
	"llm/openai":    9,

	"network": 10,

	"internal/loadtest": 11,

	"cmd/converge":       12,
	"examples/embedded":  12,
	"examples/llm/model": 12,
}

func TestFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	room := func(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }
	for line := range strings.Lines(string(out)) {
		paths := strings.Fields(line)
		name := room(paths[0])
		floor, declared := floors[name]
		if !declared {
			t.Errorf("package %q has no floor: give it one in docs/architecture.md and here", name)
			continue
		}
		for _, path := range paths[1:] {
			if !strings.HasPrefix(path, module) {
				continue
			}
			if below := floors[room(path)]; below >= floor {
				t.Errorf("%q (floor %d) imports %q (floor %d): imports go down only", name, floor, room(path), below)
			}
		}
	}
}
