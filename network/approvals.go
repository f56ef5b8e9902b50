package network

import (
	"context"
	"errors"
	"slices"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
)

// OpenApprovals opens the store of a configuration, if processes share it, to list and decide what waits there,
// whether a network runs in this process's machine or elsewhere. Nothing is approved by the service itself. Call
// done in the end.
func OpenApprovals(ctx context.Context, c *config.Config, o Options) (s *approval.Service, done func() error, err error) {
	if !c.StoreShared() {
		return nil, nil, errors.New("no other process can use the store")
	}
	n := newNetwork(c, o)
	steps := []func() error{n.makeDir, func() error { return n.openStore(ctx) }}
	if c.StoreKind() == config.StoreNATS {
		steps = slices.Insert(steps, 1, n.addTransport)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, nil, errors.Join(err, n.Close())
		}
	}
	if s, err = approval.New(approval.Config{Store: n.store, Logger: n.log}); err != nil {
		return nil, nil, errors.Join(err, n.Close())
	}
	return s, n.Close, nil
}
