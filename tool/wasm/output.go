package wasm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero/sys"

	"github.com/converge-agents/converge/tool"
)

// ExitError is the error of a module that ended by itself, but not with status 0.
type ExitError struct {
	Code uint32 // the exit status
	// Stderr holds the last bytes of the standard error. They can tell what went wrong, but may hold what was in the
	// params, so they are no part of the error's text.
	Stderr string
}

// Error implements the error interface.
func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// TrapError is the error of a module that did what a module cannot do: it ran out of its stack, read beyond its
// memory, divided by zero, or said itself that it was lost.
type TrapError struct {
	Trap   string // which, in the runtime's words
	Stderr string // see [ExitError]
}

// Error implements the error interface.
func (e *TrapError) Error() string { return "trapped: " + e.Trap }

// ended makes an error of the runtime's.
func ended(err error, stderr string) error {
	if exit, ok := errors.AsType[*sys.ExitError](err); ok {
		return &ExitError{exit.ExitCode(), stderr}
	}
	first, _, _ := strings.Cut(err.Error(), "\n") // what follows is a stack
	if _, trap, isTrap := strings.Cut(first, "] failed: "); isTrap {
		return &TrapError{strings.TrimPrefix(trap, "wasm error: "), stderr}
	}
	return errors.New(first)
}

// format makes the output of a tool of what a module wrote.
func format(mode string, stdout []byte) (tool.Output, error) {
	switch mode {
	case JSON:
		if !json.Valid(stdout) {
			return tool.Output{}, errors.New("the module did not write valid JSON")
		}
		return tool.Output{Data: stdout, ContentType: "application/json"}, nil
	case Bytes:
		return tool.Output{Data: stdout, ContentType: "application/octet-stream"}, nil
	default:
		text, _ := bytes.CutSuffix(stdout, []byte("\n"))
		return tool.Output{Data: text, ContentType: "text/plain"}, nil
	}
}

var errFull = errors.New("full")

// capped keeps what is written to it, up to limit bytes. Then it calls full, once, and keeps nothing.
type capped struct {
	buffer bytes.Buffer
	limit  int
	full   func()
	over   bool
}

func (w *capped) Write(p []byte) (int, error) {
	if !w.over && len(p) <= w.limit-w.buffer.Len() {
		return w.buffer.Write(p)
	}
	if !w.over {
		w.over, w.buffer = true, bytes.Buffer{}
		w.full()
	}
	return 0, errFull
}

// tail keeps the last limit bytes of what is written to it.
type tail struct {
	kept  []byte
	limit int
}

func (w *tail) Write(p []byte) (int, error) {
	fresh := p[max(0, len(p)-w.limit):]
	stale := max(0, len(w.kept)+len(fresh)-w.limit)
	w.kept = append(w.kept[:copy(w.kept, w.kept[stale:])], fresh...)
	return len(p), nil
}
