package tcp

import (
	"crypto/tls"
	"net"
	"sync"
)

// bufferSize is how much is read and written in one system call: four records of TLS and some.
const bufferSize = 72 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// stream is a connection that moves several records of TLS in one system call. Its Close is one of the
// socket: a mesh has said goodbye before, and the closing alert of TLS can block.
type stream struct {
	*tls.Conn
	wire *wire
}

// Write implements [net.Conn].
func (s stream) Write(b []byte) (int, error) {
	s.wire.hold()
	n, err := s.Conn.Write(b)
	if flushErr := s.wire.flush(); err == nil && flushErr != nil {
		return 0, flushErr
	}
	return n, err
}

// Close implements [net.Conn].
func (s stream) Close() error { return s.wire.Close() }

// wire is the connection under TLS. A buffer is borrowed while there is much to read or write, so that idle
// connections have none. One goroutine reads and one calls hold and flush; any may write.
type wire struct {
	net.Conn

	in       *[bufferSize]byte // nil if what is read goes straight to the caller
	from, to int
	full     bool // the last read filled all that it was given: there is probably more

	mu   sync.Mutex
	held bool
	out  *[bufferSize]byte
	size int
}

// NetConn returns what is under the wire.
func (w *wire) NetConn() net.Conn { return w.Conn }

// Read implements [net.Conn].
func (w *wire) Read(b []byte) (int, error) {
	if w.from == w.to {
		if !w.full {
			return w.readInto(b)
		}
		if err := w.refill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, w.in[w.from:w.to])
	if w.from += n; w.from == w.to && !w.full {
		buffers.Put(w.in)
		w.in = nil
	}
	return n, nil
}

func (w *wire) readInto(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.full = n == len(b) && n > 0
	return n, err
}

func (w *wire) refill() (err error) {
	if w.in == nil {
		w.in = buffers.Get().(*[bufferSize]byte)
	}
	w.from = 0
	w.to, err = w.Conn.Read(w.in[:])
	w.full = w.to > bufferSize/4
	return err
}

// hold makes writes wait for flush.
func (w *wire) hold() {
	w.mu.Lock()
	w.held = true
	w.mu.Unlock()
}

// flush writes what was held.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = false
	return w.send()
}

// Write implements [net.Conn].
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.held {
		return w.Conn.Write(b)
	}
	if w.size+len(b) > bufferSize {
		if err := w.send(); err != nil {
			return 0, err
		}
	}
	if len(b) > bufferSize {
		return w.Conn.Write(b)
	}
	if w.out == nil {
		w.out = buffers.Get().(*[bufferSize]byte)
	}
	w.size += copy(w.out[w.size:], b)
	return len(b), nil
}

// send writes what the buffer holds and gives it back; w.mu is held.
func (w *wire) send() error {
	if w.out == nil {
		return nil
	}
	_, err := w.Conn.Write(w.out[:w.size])
	buffers.Put(w.out)
	w.out, w.size = nil, 0
	return err
}
