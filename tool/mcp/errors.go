package mcp

import (
	"errors"
	"fmt"
)

// Errors that callers branch on with [errors.Is].
var (
	ErrClosed      = errors.New("the server is closed")
	ErrUnavailable = errors.New("the server is not there")       // the cause is wrapped too; it is being started again
	ErrEnded       = errors.New("the server ended")              // during a call, which may have had its effect
	ErrBusy        = errors.New("too many calls are under way")  // MaxCalls; nothing was sent
	ErrGone        = errors.New("the server offers it no more")  // wrapped with the tool's name
	ErrFlood       = errors.New("the server says too much")      // unasked; it is ended
	ErrProtocol    = errors.New("the server broke the protocol") // a result that is none
)

// ChangedError is the error of calls of a tool whose definition is not the one that was approved: a rug pull, or an
// update. The tool is blocked until the new definition is approved and the server started anew.
type ChangedError struct {
	Server, Tool    string
	Pinned, Offered Hash
	Reason          error // why the definition could not be approved at all, or nil
}

// Error implements the error interface. It says what to do.
func (e *ChangedError) Error() string {
	what := fmt.Sprintf("tool %q of mcp server %q is blocked: its definition is not the one that was approved: pinned %s", e.Tool, e.Server, e.Pinned)
	if e.Reason != nil {
		return fmt.Sprintf("%s, offered one that is refused: %v", what, e.Reason)
	}
	return fmt.Sprintf("%s, offered %s: read the new one with `converge mcp inspect`; if you agree, pin it in the configuration or with `converge mcp accept`, and start again", what, e.Offered)
}

// ResultError is the error of a call that the server says has failed. Its text is the server's, at most 1 KiB of it,
// without control characters.
type ResultError struct {
	Text string
}

// Error implements the error interface.
func (e *ResultError) Error() string {
	if e.Text == "" {
		return "the server says that the call failed, and not why"
	}
	return "the server says: " + e.Text
}

// StartError is the error of a program that ended before it was ready.
type StartError struct {
	Program string // its path
	End     string // how it ended
	// Stderr holds the last bytes of the standard error. They can tell what went wrong, but may hold secrets, so
	// they are no part of the error's text.
	Stderr string
	Err    error // what the session met
}

// Error implements the error interface.
func (e *StartError) Error() string {
	return fmt.Sprintf("program %q ended before it was ready: %s: %v", e.Program, e.End, e.Err)
}

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }
