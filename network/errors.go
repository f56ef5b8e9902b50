package network

import (
	"errors"
	"syscall"

	"github.com/converge-agents/converge/internal/advice"
)

// explained joins the errors of agents that could not start or failed, with advice where there is some.
func (n *Network) explained(errs []error) error {
	servers, _ := n.config.Servers()
	for i, err := range errs {
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			errs[i] = advice.On(err, "another process listens there: choose another address with listen or --listen")
		case len(servers) > 0 && n.metrics.Transport().Opened == 0:
			errs[i] = advice.On(err, "the servers of transport have to be there when agents start; if they are, check the login in the section nats")
		}
	}
	return errors.Join(errs...)
}
