package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

const (
	// messageSize is how many bytes go into one WebSocket message at most. Where messages begin and end
	// means nothing: they carry one stream of bytes, which a proxy may cut otherwise. Small ones let
	// the answers to pings pass between them in time.
	messageSize = 16 << 10
	// messageLimit is how large a message may be that is read.
	messageLimit = 256 << 10
)

var (
	errText    = errors.New("text message where only binary ones are due")
	errStalled = errors.New("a message does not arrive")
)

// stream is the byte stream that the mesh runs on: the payload of binary messages, one after the other.
// Unlike websocket.NetConn it keeps the limit on message sizes, has the deadlines of the connection
// beneath, which cost nothing while they do not pass, and closes with a code that says why.
type stream struct {
	ws      *websocket.Conn
	wire    *wire
	remote  net.Addr // of the client, which the wire's is not behind a proxy
	network *Network
	reader  io.Reader                      // the rest of the current message
	reason  atomic.Pointer[peertls.Reason] // why it is closed; nil for no particular one
	once    sync.Once
	gone    chan struct{} // closed when the connection is
	over    chan struct{} // closed when Read has failed
	verdict error         // why; set before
}

var _ mesh.CloseReasoner = (*stream)(nil)

func (n *Network) newStream(ws *websocket.Conn, w *wire, remote net.Addr) *stream {
	ws.SetReadLimit(messageLimit)
	return &stream{ws: ws, wire: w, remote: remote, network: n, gone: make(chan struct{}), over: make(chan struct{})}
}

// Read implements [net.Conn]. The other side's normal closure is io.EOF.
func (s *stream) Read(p []byte) (int, error) {
	p = p[:min(len(p), readChunk)]
	for {
		if s.reader == nil {
			if err := s.next(); err != nil {
				return 0, s.end(err)
			}
		}
		n, err := s.readChunk(p)
		if errors.Is(err, io.EOF) {
			s.reader, err = nil, nil
		}
		if err != nil {
			return 0, s.end(err) // what came with it is still masked
		}
		s.wire.delivered(n)
		if n > 0 {
			return n, nil
		}
	}
}

// readChunk reads from the current message.
func (s *stream) readChunk(p []byte) (int, error) {
	s.wire.begin()
	n, err := s.reader.Read(p)
	s.wire.end()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errStalled
	}
	return n, err
}

// next begins to read the next message.
func (s *stream) next() error {
	kind, reader, err := s.ws.Reader(context.Background())
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		return io.EOF
	}
	if err != nil {
		return err
	}
	if kind != websocket.MessageBinary {
		return errText
	}
	s.reader = reader
	return nil
}

// end returns an error of Read: as a refusal, if it is the other side's offence.
func (s *stream) end(err error) error {
	if reason := reasonOfStream(err); reason != peertls.Handshake && !errors.Is(err, io.EOF) {
		err = &peertls.Refusal{Reason: reason, Err: err}
	}
	if s.verdict == nil {
		s.verdict = err
		close(s.over)
	}
	return err
}

// Write implements [net.Conn].
func (s *stream) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		message := p[:min(len(p), messageSize)]
		if err := s.ws.Write(context.Background(), websocket.MessageBinary, message); err != nil {
			return written, s.whyClosed(err)
		}
		written += len(message)
		p = p[len(message):]
	}
	return written, nil
}

// whyClosed returns why Write has failed. The library closes a connection on which RFC 6455 is violated before
// Read returns and tells of it: then that is why.
func (s *stream) whyClosed(err error) error {
	if !errors.Is(err, net.ErrClosed) {
		return err
	}
	select {
	case <-s.over:
		if refusal, ok := errors.AsType[*peertls.Refusal](s.verdict); ok {
			return refusal
		}
	case <-time.After(farewell):
	}
	return err
}

// CloseReason implements [mesh.CloseReasoner]. The first word counts.
func (s *stream) CloseReason(word string) {
	if word == "" {
		return
	}
	reason := peertls.Reason(word)
	s.reason.CompareAndSwap(nil, &reason)
}

// Close implements [net.Conn]. It returns at once: the goodbye, with a code that says why, and the wait for its
// answer go on for a moment, for which Network.Close waits.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.network.leaving.Go(func() {
			defer close(s.gone)
			farewellTo(s.ws, s.wire, s.code())
		})
	})
	return nil
}

func (s *stream) code() websocket.StatusCode {
	if reason := s.reason.Load(); reason != nil {
		return codeOf(*reason)
	}
	if s.network.running.IsShut() {
		return websocket.StatusGoingAway
	}
	return websocket.StatusNormalClosure
}

// LocalAddr implements [net.Conn].
func (s *stream) LocalAddr() net.Addr { return s.wire.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (s *stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements [net.Conn].
func (s *stream) SetDeadline(t time.Time) error { return s.wire.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (s *stream) SetReadDeadline(t time.Time) error { return s.wire.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (s *stream) SetWriteDeadline(t time.Time) error { return s.wire.SetWriteDeadline(t) }

// farewellTo closes a WebSocket with a code. The reason stays empty: it is not the peer's to know.
func farewellTo(ws *websocket.Conn, w *wire, code websocket.StatusCode) {
	w.leave()
	ws.Close(code, "")
}
