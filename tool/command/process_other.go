//go:build !unix

package command

import (
	"context"
	"errors"
)

const supported = false // New returns an error, so run is never called

func (p *process) run(context.Context) ([]byte, error) { return nil, errors.ErrUnsupported }
