package mcp

import (
	"context"
	"io"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// PipedMessage is what [MaxMessage] is to servers of [NewPiped]: less, since reading takes the race detector long.
const PipedMessage = 2 << 20

// NewPiped is New for a server that is a function, which returns when its input ends.
func NewPiped(c Config, serve func(in io.Reader, out io.Writer)) (*Server, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	s.connect = func(ctx context.Context) (*carrier, error) {
		in, toServer := io.Pipe()
		fromServer, out := io.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			serve(in, out)
			_, _ = out.Close(), in.Close()
		}()
		t := sdk.IOTransport{Reader: fromServer, Writer: toServer, MaxLineLength: PipedMessage}
		c, err := t.Connect(ctx)
		return &carrier{connection: newOutbox(c), release: func() { <-served }}, err
	}
	return s, nil
}

// SetCheckTimeout sets how long a server may take to list its tools while it runs.
func (s *Server) SetCheckTimeout(d time.Duration) { s.checkTimeout = d }

// Await blocks until ok says so about the server's status.
func (s *Server) Await(ctx context.Context, ok func(Status) bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if ok(s.Status()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// PID returns the number of the program that runs, 0 if there is none.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || s.session.carrier.program == nil {
		return 0
	}
	return s.session.carrier.program.cmd.Process.Pid
}

// Kept returns how many answers the session expects.
func (s *Server) Kept() int {
	s.mu.Lock()
	l := s.session.link
	s.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.replies)
}

var (
	ParsePin  = parsePin
	Output    = output
	CheckText = checkText
)

func (p Pin) Marshal() ([]byte, error) { return p.marshal() }
