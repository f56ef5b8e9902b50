package mcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/internal/nearest"
	"github.com/converge-agents/converge/internal/sandbox"
	"github.com/converge-agents/converge/tool"
)

// Server is a server whose tools agents may be allowed. It is safe for concurrent use. Start it once, and Close it.
type Server struct {
	config  Config
	log     *slog.Logger
	connect connect
	sandbox *sandbox.Policy // of the program; nil restricts nothing

	mu       sync.Mutex
	state    state
	session  *session // while the state is up
	cause    error    // why the server is down
	claims   uint64   // how often the server has said that its tools have changed
	checked  uint64   // the claims that have been looked into
	blocked  map[string]error
	changed  chan struct{} // closed, and replaced, when any of the above has changed
	restarts uint64
	tools    map[string]*Tool // by the server's names for them; never changes after Start

	checkTimeout time.Duration

	stop       context.CancelFunc
	supervisor sync.WaitGroup
}

type state int

const (
	idle  state = iota // not started
	up                 // there is a session
	again              // the session has ended, and the first attempt to start again is under way: calls wait
	down               // an attempt has failed, others follow: calls fail
	closed
)

// Start connects to the server, lists its tools, and holds their definitions against the pins. Tools without a pin
// get one. From then on, and until Close, a server that ends is started again. ctx bounds the start only.
//
// It is an error if one of the tools is not offered, or if its definition is one that nobody should approve. A tool
// that is not as it was pinned is none: it is blocked, which is logged, and its calls are [*ChangedError]s.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.StartTimeout, fmt.Errorf("not ready after %v", s.config.StartTimeout))
	defer cancel()
	x, err := s.open(ctx)
	if err != nil {
		return s.error("start", cmpCause(ctx, err))
	}
	tools, blocked, err := s.define(ctx, x)
	if err != nil {
		x.close()
		return s.error("start", cmpCause(ctx, err))
	}
	return s.begin(ctx, x, tools, blocked)
}

// begin hands the first session to the supervisor.
func (s *Server) begin(ctx context.Context, x *session, tools map[string]*Tool, blocked map[string]error) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	if s.state != idle {
		s.mu.Unlock()
		stop()
		x.close()
		return s.error("start", errors.New("it was started or closed before"))
	}
	s.stop, s.tools, s.blocked = stop, tools, blocked
	s.supervisor.Go(func() { s.supervise(ctx, x) })
	s.rise(x)
	s.mu.Unlock()
	s.tellRise(x, len(blocked))
	return nil
}

func (s *Server) error(operation string, err error) error {
	return fmt.Errorf("%s mcp server %q: %w", operation, s.config.Name, err)
}

// cmpCause returns why ctx ended, if that is what ended the work.
func cmpCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		return cause
	}
	return err
}

// Close ends the server, its program and all calls, and waits for that. Closing twice is fine.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.stop != nil {
		s.stop()
	}
	s.set(closed, nil)
	s.mu.Unlock()
	s.supervisor.Wait()
	return nil
}

// Name returns the server's name.
func (s *Server) Name() string { return s.config.Name }

// Tools returns the tools, sorted by name, blocked ones included. There are none before Start.
func (s *Server) Tools() []*Tool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tools []*Tool
	for _, name := range slices.Sorted(maps.Keys(s.tools)) {
		tools = append(tools, s.tools[name])
	}
	return tools
}

// Status is how a server is at one moment.
type Status struct {
	Up       bool   // whether it can be called
	Restarts uint64 // how often it was started again
	Blocked  int    // tools that are blocked
	Err      error  // why it is not up, if it was and will be again
}

// Status returns how the server is.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Up: s.state == up, Restarts: s.restarts, Blocked: len(s.blocked), Err: s.cause}
}

// set changes the state; mu is held. A server that is closed stays so.
func (s *Server) set(to state, cause error) {
	if s.state == closed {
		return
	}
	s.state, s.cause = to, cause
	if to != up {
		s.session = nil
	}
	s.wake()
}

func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// rise makes x the session that calls go to; mu is held.
func (s *Server) rise(x *session) {
	s.set(up, nil)
	s.session = x
}

func (s *Server) tellRise(x *session, blocked int) {
	s.log.Info("mcp server is up", "tools", len(s.config.Tools)-blocked, "blocked", blocked, "says_it_is", x.says())
}

// acquire returns the session for a call of a tool, or why there is none. It waits while the tools are being looked
// at, and while the first attempt to start again is under way.
func (s *Server) acquire(ctx context.Context, name string) (*session, error) {
	for {
		s.mu.Lock()
		x, changed, err := s.current(name)
		s.mu.Unlock()
		if x != nil || err != nil {
			return x, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// current is acquire at this moment; mu is held.
func (s *Server) current(name string) (x *session, changed <-chan struct{}, _ error) {
	switch {
	case s.state == closed || s.state == idle:
		return nil, nil, ErrClosed
	case s.state == down:
		return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, s.cause)
	case s.state == again || s.checked != s.claims:
		return nil, s.changed, nil
	case s.blocked[name] != nil:
		return nil, nil, s.blocked[name]
	default:
		return s.session, nil, nil
	}
}

// lose makes calls wait for the session after x.
func (s *Server) lose(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == x {
		s.set(again, ErrEnded)
	}
}

// listChanged makes calls wait until the tools have been looked at.
func (s *Server) listChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims++
	s.wake()
}

// define makes the tools of what the server offers at the start, and says which are blocked.
func (s *Server) define(ctx context.Context, x *session) (tools map[string]*Tool, blocked map[string]error, err error) {
	offered, err := x.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	tools, blocked = map[string]*Tool{}, map[string]error{}
	var errs []error
	for _, name := range s.config.Tools {
		t, err := s.defineTool(ctx, name, offered)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		tools[name] = t
		if t.changed != nil {
			blocked[name] = t.changed
			s.log.Error("mcp tool is blocked", "tool", name, "error", t.changed)
		}
	}
	return tools, blocked, errors.Join(errs...)
}

func (s *Server) defineTool(ctx context.Context, name string, offered map[string]*sdk.Tool) (*Tool, error) {
	t := offered[name]
	if t == nil {
		return nil, unknownTool(name, slices.Sorted(maps.Keys(offered)))
	}
	d, err := define(t)
	if err != nil {
		return nil, fmt.Errorf("tool %q: its definition is refused: %w: leave it out of the tools, or have the server mended", name, err)
	}
	pinned, err := s.pin(ctx, name, d.Hash())
	if err != nil {
		return nil, fmt.Errorf("tool %q: %w", name, err)
	}
	return s.newTool(d, pinned)
}

func unknownTool(name string, offered []string) error {
	var fit []string
	for _, other := range offered {
		if isToolName("", other) {
			fit = append(fit, other)
		}
	}
	if near := nearest.Name(name, fit); near != "" {
		return fmt.Errorf("the server offers no tool %q: did you mean %q?", name, near)
	}
	return fmt.Errorf("the server offers no tool %q, but %d others", name, len(offered))
}

// pin returns the hash that the definition has to have. A tool that was never seen gets the one that is offered.
func (s *Server) pin(ctx context.Context, name string, offered Hash) (Hash, error) {
	if pinned, ok := s.config.Pins[name]; ok {
		return pinned, nil
	}
	if s.config.Store == nil {
		s.log.Warn("mcp tool has no pin, and there is no store to keep one: what the server offers now is trusted", "tool", name, "hash", offered)
		return offered, nil
	}
	p, first, err := s.config.Store.First(ctx, s.config.Name, name, offered)
	if err != nil {
		return Hash{}, err
	}
	if first {
		s.log.Warn("mcp tool is seen for the first time: its definition is trusted from now on", "tool", name, "hash", offered)
	}
	return p.Hash, nil
}

// check holds what the server offers against the pins.
func (s *Server) check(ctx context.Context, x *session) error {
	s.mu.Lock()
	claims := s.claims
	s.mu.Unlock()
	offered, err := x.list(ctx)
	if err != nil {
		return err
	}
	blocked := map[string]error{}
	for _, t := range s.Tools() {
		if err := t.verdict(offered[t.definition.Name]); err != nil {
			blocked[t.definition.Name] = err
		}
	}
	s.judge(blocked, claims)
	return nil
}

// judge sets which tools are blocked, as of a number of claims.
func (s *Server) judge(blocked map[string]error, claims uint64) {
	s.mu.Lock()
	before := s.blocked
	s.blocked, s.checked = blocked, claims
	s.wake()
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(blocked)) {
		if before[name] == nil {
			s.log.Error("mcp tool is blocked", "tool", name, "error", blocked[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if blocked[name] == nil {
			s.log.Info("mcp tool is as it was approved again", "tool", name)
		}
	}
}

var _ tool.Tool = (*Tool)(nil)

// backoff is the time before an attempt to start again, of which so many were made before.
func (s *Server) backoff(attempts int) time.Duration {
	wait := s.config.MinBackoff
	for range min(attempts, 32) {
		wait = min(2*wait, s.config.MaxBackoff)
	}
	return wait
}
