package network

import (
	"context"
	"errors"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
)

// ErrNotShared says that the approvals of a configuration cannot be reached but through the process that runs it.
var ErrNotShared = errors.New("the approvals are not in a store that processes share")

// OpenApprovals opens the store of a configuration to list and decide what waits there, if other processes can use it:
// on PostgreSQL, or on NATS servers of their own, and with the key in policy.key or in the state directory. The error
// is [ErrNotShared] otherwise. The service approves nothing itself. Call done in the end.
func OpenApprovals(ctx context.Context, c *config.Config, o Options) (s *approval.Service, done func() error, err error) {
	servers, _ := c.Servers()
	if !c.StoreShared() || c.StoreKind() == config.StoreNATS && len(servers) == 0 || c.Data == "" && c.Policy.Key == (config.Secret{}) {
		return nil, nil, ErrNotShared
	}
	n, err := withStore(ctx, c, o)
	if err != nil {
		return nil, nil, err
	}
	key, err := n.approvalKey()
	if err == nil {
		s, err = approval.New(approval.Config{Store: n.store, Key: key, Logger: n.log})
	}
	if err != nil {
		return nil, nil, errors.Join(err, n.Close())
	}
	return s, n.Close, nil
}
