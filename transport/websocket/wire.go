package websocket

import (
	"cmp"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// readChunk bounds one read, which the library does not end before it has all of it, so that a slow
	// peer's progress is seen.
	readChunk = 16 << 10
	// framing is how many bytes may arrive that are no payload: headers, pings, empty messages. It comes
	// back at framingRate a second, and with what is delivered.
	framing     = 64 << 10
	framingRate = 4 << 10
	// farewell bounds how long a close waits for its frame to be written and answered.
	farewell = 250 * time.Millisecond
)

var errFraming = errors.New("more WebSocket framing than payload")

// wire is the connection under a WebSocket. Of what it reads, no more than a share may be framing: control
// frames and empty messages never reach the mesh, so that its limits do not see them.
type wire struct {
	net.Conn
	progress time.Duration // how long a message may wait for its next byte
	minRate  int           // bytes per second

	mu       sync.Mutex
	overhead int // bytes read that were not delivered as payload, less what time has forgiven
	seen     time.Time
	deadline time.Time // of reads, as the mesh has set it
	due      time.Time // when the chunk that is being read has to be complete; zero if none is
	hurried  bool      // the deadline of the connection is another one, for that
	leaving  bool
}

func (n *Network) newWire(c net.Conn) *wire {
	return &wire{
		Conn: c, seen: time.Now(),
		progress: cmp.Or(n.config.ProgressTimeout, 15*time.Second), minRate: cmp.Or(n.config.MinRate, 8<<10),
	}
}

// Read implements [net.Conn].
func (w *wire) Read(p []byte) (int, error) {
	if err := w.prepare(); err != nil {
		return 0, err
	}
	n, err := w.Conn.Read(p)
	w.account(n)
	return n, err
}

// prepare sees to it that the next read ends in time.
func (w *wire) prepare() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.overhead > framing+readChunk {
		return errFraming
	}
	if w.due.IsZero() || w.leaving {
		return nil
	}
	deadline := earlier(w.due, time.Now().Add(w.progress))
	if !w.deadline.IsZero() {
		deadline = earlier(deadline, w.deadline)
	}
	w.hurried = true
	return w.Conn.SetReadDeadline(deadline)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// begin says that a chunk of a message is read from now on: the library does not return before it has all of
// it, so that its progress is seen here only.
func (w *wire) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	chunk := time.Duration(float64(readChunk) / float64(w.minRate) * float64(time.Second))
	w.due = time.Now().Add(w.progress + chunk)
}

// end says that the chunk is there.
func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = time.Time{}
	if w.hurried && !w.leaving {
		w.hurried = false
		w.Conn.SetReadDeadline(w.deadline)
	}
}

func (w *wire) account(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	forgiven := int(now.Sub(w.seen).Seconds() * framingRate)
	if forgiven > 0 {
		w.seen = now
	}
	w.overhead = max(0, w.overhead-forgiven) + n
}

// delivered takes n bytes of payload off the account, and twice as much for the framing that they needed.
func (w *wire) delivered(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overhead = max(0, w.overhead-3*n)
}

// SetDeadline implements [net.Conn].
func (w *wire) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	if w.leaving {
		return nil
	}
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements [net.Conn].
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leaving {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// leave gives what is still to be said the time of a farewell; no other deadline counts from now on.
func (w *wire) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = true
	w.Conn.SetDeadline(time.Now().Add(farewell))
}
