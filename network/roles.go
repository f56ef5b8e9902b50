package network

import (
	"context"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
)

// addTasks makes the manager of the tasks, if they are here.
func (n *Network) addTasks() (err error) {
	if n.config.Tasks.Host != "" {
		return nil
	}
	if n.tasks, err = task.New(task.Config{Store: n.store, Verifier: n.proofs, Member: n.isMember, Logger: n.log}); err != nil {
		return err
	}
	n.metrics.AddTasks(n.tasks)
	n.metrics.Require("tasks", func() bool { return n.tasks.Healthy() == nil })
	return nil
}

// tasksFor returns an agent's way to the tasks.
func (n *Network) tasksFor(a config.Agent) (converge.Tasks, error) {
	switch {
	case a.Kind == config.KindHost:
		return nil, nil
	case n.tasks != nil:
		return n.tasks, nil
	}
	client, err := remote.New(remote.Config{Host: n.peerNamed(n.config.Tasks.Host), MaxMessage: int(n.config.Limits.MessageSize)})
	if err != nil {
		return nil, err
	}
	return client, nil
}

// setRole gives the agent its behaviour.
func (n *Network) setRole(ctx context.Context, a config.Agent, c *converge.Config, m *member) error {
	switch a.Kind {
	case config.KindWorker:
		return setWorker(a, c, m)
	case config.KindHost:
		return n.setHost(a, c)
	case config.KindLLM:
		return n.setLLM(a, c, m)
	default:
		return n.setCoordinator(ctx, a, c, m)
	}
}

func setWorker(a config.Agent, c *converge.Config, m *member) error {
	w, err := role.NewWorker(role.WorkerConfig{ID: m.id, Tools: a.Capabilities, Concurrency: a.Concurrency})
	if err != nil {
		return err
	}
	c.Agent, c.Capabilities, c.TaskKinds = w, w.Capabilities(), w.Kinds()
	return nil
}

func (n *Network) setCoordinator(ctx context.Context, a config.Agent, c *converge.Config, m *member) error {
	specs, err := n.tasksOf(ctx, m.name, a)
	if err != nil {
		return err
	}
	var k *role.Coordinator
	k, err = role.NewCoordinator(role.CoordinatorConfig{
		ID:       m.id,
		Tasks:    specs,
		Verifier: n.proofs,
		Deadline: time.Duration(a.Deadline),
		Progress: func(p role.Progress) { n.report(k, p) },
	})
	if err != nil {
		return err
	}
	n.progress[k] = k.Progress()
	c.Agent, m.coordinator = k, k
	return nil
}

// setHost makes the agent serve those whom the configuration names, and nobody else.
func (n *Network) setHost(a config.Agent, c *converge.Config) (err error) {
	rights := map[identity.ID]remote.Rights{}
	for _, name := range a.Workers {
		rights[n.peerNamed(name)] = remote.Rights{Work: true}
	}
	for _, name := range a.Submitters {
		id := n.peerNamed(name)
		rights[id] = remote.Rights{Submit: true, Work: rights[id].Work}
	}
	c.SendTimeout = role.HostSendTimeout
	c.Agent, err = role.NewHost(remote.HostConfig{
		Tasks:      n.tasks,
		Allow:      func(agent identity.ID) remote.Rights { return rights[agent] },
		Pools:      n.poolsOf,
		MaxMessage: int(n.config.Limits.MessageSize),
		Logger:     n.log,
	})
	return err
}
