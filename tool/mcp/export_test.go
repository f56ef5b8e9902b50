package mcp

import "context"

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
