package command

import (
	"io"

	"github.com/converge-agents/converge/internal/sandbox"
)

// process is one run of a program, with all decided.
type process struct {
	path      string
	args      []string
	env       []string  // not nil
	stdin     io.Reader // nil is an empty one; an *os.File is handed over as it is
	dir       string
	maxOutput int
	maxStderr int
	sandbox   *sandbox.Policy
}
