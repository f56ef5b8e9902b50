package mcp

import (
	"context"
	"fmt"
	"time"
)

const (
	// settled is how long a session has to live before the next start comes as early as the first.
	settled = time.Minute
	// checkPause is the least time between two lists of tools.
	checkPause = time.Second
	// maxSilences is how many lists of tools in a row may fail before the server is ended.
	maxSilences = 3
)

// supervise watches over the session, and starts the server again when it has ended, until ctx ends.
func (s *Server) supervise(ctx context.Context, x *session) {
	attempts := 0
	for x != nil {
		cause := s.watch(ctx, x)
		s.mu.Lock()
		s.set(again, cause)
		s.mu.Unlock()
		x.close()
		if ctx.Err() != nil {
			return
		}
		if time.Since(x.began) > settled {
			attempts = 0
		}
		s.tellOfEnd(x, cause, s.backoff(attempts))
		x, attempts = s.restart(ctx, attempts)
	}
}

func (s *Server) tellOfEnd(x *session, cause error, wait time.Duration) {
	attributes := []any{"error", cause, "next_start_in", wait}
	if s.config.LogStderr && x.stderr() != "" {
		attributes = append(attributes, "stderr", x.stderr())
	}
	s.log.Warn("mcp server has ended", attributes...)
}

// watch checks the tools when the server says that they have changed, and now and then. It returns why the session
// is over.
func (s *Server) watch(ctx context.Context, x *session) error {
	tick := time.NewTicker(s.config.CheckEvery)
	defer tick.Stop()
	for silences := 0; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.gone.Done():
			return context.Cause(x.gone)
		case <-s.claimed():
		case <-tick.C:
		}
		err := s.checkInTime(ctx, x)
		if err == nil {
			silences = 0
		} else if silences++; silences == maxSilences && x.gone.Err() == nil {
			return fmt.Errorf("it does not answer: %w", err)
		}
		pause(ctx, x.gone, checkPause)
	}
}

func (s *Server) checkInTime(ctx context.Context, x *session) error {
	ctx, cancel := context.WithTimeout(ctx, s.checkTimeout)
	defer cancel()
	return s.check(ctx, x)
}

// claimed returns a channel that is closed, or will be, if the server has said that its tools have changed.
func (s *Server) claimed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims != s.checked {
		done := make(chan struct{})
		close(done)
		return done
	}
	return s.changed
}

// pause waits, but not beyond the end of either context.
func pause(ctx, gone context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-gone.Done():
	}
}

// restart starts the server again, as often as it takes. It returns nil if ctx ended.
func (s *Server) restart(ctx context.Context, attempts int) (*session, int) {
	for {
		pause(ctx, ctx, s.backoff(attempts))
		if ctx.Err() != nil {
			return nil, attempts
		}
		attempts++
		x, err := s.reopen(ctx)
		if err == nil {
			s.mu.Lock()
			s.restarts++
			s.rise(x)
			blocked := len(s.blocked)
			s.mu.Unlock()
			s.tellRise(x, blocked)
			return x, attempts
		}
		if ctx.Err() != nil {
			return nil, attempts
		}
		s.mu.Lock()
		s.set(down, err)
		s.mu.Unlock()
		s.log.Warn("mcp server does not start", "error", err, "next_start_in", s.backoff(attempts))
	}
}

// reopen makes a session and holds the server's tools against the pins before any call gets to it.
func (s *Server) reopen(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.StartTimeout, fmt.Errorf("not ready after %v", s.config.StartTimeout))
	defer cancel()
	x, err := s.open(ctx)
	if err != nil {
		return nil, cmpCause(ctx, err)
	}
	if err := s.check(ctx, x); err != nil {
		x.close()
		return nil, cmpCause(ctx, err)
	}
	return x, nil
}
