package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/replay"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
)

// Replay has an agent of the configuration decide again on what a log has recorded of it; see package replay. No
// network is used, no tool is run, no model is asked and nothing is sent: what models answered is taken from the log.
// Hosts cannot be replayed: what they answer is in the store.
func Replay(ctx context.Context, c *config.Config, agent string, r replay.Config, files ...string) (replay.Summary, error) {
	if err := c.Validate(); err != nil {
		return replay.Summary{}, err
	}
	a, err := agentNamed(c, agent)
	if err != nil {
		return replay.Summary{}, err
	}
	r.Name = agent
	if a.Kind == config.KindLLM {
		recallModel(c, a, &r)
	} else {
		r.Agent = func(at replay.At) (converge.Agent, error) { return replayed(ctx, c, a, at) }
	}
	return replay.Run(ctx, r, files...)
}

func agentNamed(c *config.Config, name string) (config.Agent, error) {
	var known []string
	for _, a := range c.Agents {
		if slices.Contains(a.Names(), name) {
			return a, nil
		}
		known = append(known, a.Names()...)
	}
	return config.Agent{}, advice.On(fmt.Errorf("replay: the configuration has no agent %q", name), "its agents are "+strings.Join(known, ", "))
}

// replayed makes the agent that stands in for one of the past.
func replayed(ctx context.Context, c *config.Config, a config.Agent, at replay.At) (converge.Agent, error) {
	switch a.Kind {
	case config.KindWorker:
		return role.NewWorker(role.WorkerConfig{ID: at.ID, Tools: a.Capabilities, Concurrency: a.Concurrency})
	case config.KindCoordinator:
		specs, err := specsOf(ctx, c, a)
		if err != nil {
			return nil, err
		}
		return role.NewCoordinator(role.CoordinatorConfig{
			ID: at.ID, Tasks: specs, Verifier: at, Deadline: time.Duration(a.Deadline), Now: at.Now,
		})
	}
	return nil, fmt.Errorf("agents of the kind %s cannot be replayed", a.Kind)
}

// specsOf returns the tasks of a coordinator.
func specsOf(ctx context.Context, c *config.Config, a config.Agent) (specs []task.Spec, err error) {
	for i, t := range a.Tasks {
		subjects, err := subjectsOf(ctx, t, hiddenOf(c, c.Data))
		if err != nil {
			return nil, fmt.Errorf("tasks[%d]: %w", i, err)
		}
		for _, subject := range subjects {
			spec, err := specOf(t, subject)
			if err != nil {
				return nil, fmt.Errorf("tasks[%d]: params: %w", i, err)
			}
			specs = append(specs, spec)
		}
	}
	return specs, nil
}
