package network

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
)

// broken is an agent that cannot start.
type broken struct{ err error }

func (b broken) OnStart(context.Context) error { return b.err }

func (broken) Decide(context.Context, converge.Turn) ([]converge.Decision, error) { return nil, nil }

// TestAgentThatFailsStopsTheOthers puts in an agent that no configuration describes: all of those start.
func TestAgentThatFailsStopsTheOthers(t *testing.T) {
	c, err := config.Parse("converge.yaml", []byte(`
network: failing
tools:
  echo: {command: [cat]}
agents:
  - {name: worker, kind: worker, count: 3, capabilities: {greet: echo}, tools: [echo]}
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(t.Context(), c, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	runtime, err := converge.New(converge.Config{
		Identity: id, Network: "failing", Name: "broken", Agent: broken{boom},
		Transport: n.transport.endpoint(id), Registry: n.registry, Logger: n.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.members = append(n.members, member{name: "broken", id: id.ID(), runtime: runtime})

	err = n.Run(t.Context()) // would last as long as the test if the others went on
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "run agent broken: ") {
		t.Errorf("error %v, want that of the agent that failed", err)
	}
	for _, m := range n.members {
		if state := m.runtime.Health().State; state != converge.StateStopped {
			t.Errorf("agent %s is %v", m.name, state)
		}
	}
}
