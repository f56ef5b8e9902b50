package network

import (
	"errors"
	"syscall"
)

// hinted is an error that comes with advice. The command prints what Hint returns below it.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint says what to do about the error.
func (e *hinted) Hint() string { return e.hint }

// explained joins the errors of agents that could not start or failed, with advice where there is some.
func (n *Network) explained(errs []error) error {
	servers, _ := n.config.Servers()
	for i, err := range errs {
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			errs[i] = &hinted{err, "another process listens there: choose another address with listen or --listen"}
		case len(servers) > 0 && n.metrics.Transport().Opened == 0:
			errs[i] = &hinted{err, "the servers of transport have to be there when agents start; if they are, check the login in the section nats"}
		}
	}
	return errors.Join(errs...)
}
