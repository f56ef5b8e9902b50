//go:build !unix

package command

import (
	"errors"
	"os"
)

func openBeneath(string, string) (*os.File, error) { return nil, errors.ErrUnsupported }
