// Package capture keeps what programs write, within bounds.
package capture

import (
	"bytes"
	"errors"
	"sync"
)

// ErrFull is the error of writes to a [Capped] beyond its limit.
var ErrFull = errors.New("full")

// Capped keeps what is written to it, up to Limit bytes. Then it calls Full, once, and keeps nothing. It is for one
// writer; read it once that has ended.
type Capped struct {
	Limit int
	Full  func()

	kept bytes.Buffer
	over bool
}

// Write implements [io.Writer].
func (w *Capped) Write(p []byte) (int, error) {
	if !w.over && len(p) <= w.Limit-w.kept.Len() {
		return w.kept.Write(p)
	}
	if !w.over {
		w.over, w.kept = true, bytes.Buffer{}
		w.Full()
	}
	return 0, ErrFull
}

// Over reports whether more was written than the limit.
func (w *Capped) Over() bool { return w.over }

// Bytes returns what was written.
func (w *Capped) Bytes() []byte { return w.kept.Bytes() }

// Tail keeps the last Limit bytes of what is written to it. It is safe for concurrent use.
type Tail struct {
	Limit int

	mu   sync.Mutex
	kept []byte
}

// Write implements [io.Writer].
func (w *Tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := p[max(0, len(p)-w.Limit):]
	stale := max(0, len(w.kept)+len(fresh)-w.Limit)
	w.kept = append(w.kept[:copy(w.kept, w.kept[stale:])], fresh...)
	return len(p), nil
}

// String returns what is kept.
func (w *Tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.kept)
}
