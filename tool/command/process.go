package command

import (
	"bytes"
	"errors"
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
