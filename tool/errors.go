package tool

import (
	"errors"
	"fmt"
)

// Why a call did not succeed: the values of [Error.Reason]. Their texts hold nothing private, so they
// can be shown to peers. Of calls that were denied, unknown, invalid, not approved or busy, nothing ran; calls
// with any other reason may have had their effect on the world.
var (
	ErrDenied         = errors.New("not on the allowlist")
	ErrUnknownTool    = errors.New("unknown tool")
	ErrInvalidParams  = errors.New("invalid params")
	ErrNotApproved    = errors.New("not approved")
	ErrBusy           = errors.New("busy")
	ErrTimeout        = errors.New("timed out")
	ErrCancelled      = errors.New("cancelled") // by the caller's context, whose cause is wrapped too
	ErrOutputTooLarge = errors.New("output too large")
	ErrPanicked       = errors.New("panicked")
	ErrFailed         = errors.New("failed") // the tool itself returned the error, which is wrapped too
)

// ErrExists is the cause of [Registry.Register] for a name that is taken.
var ErrExists = errors.New("already registered")

// Error is the error of a call. [errors.Is] finds Reason and whatever Err wraps.
type Error struct {
	Tool   string // the name that was called; at most 128 bytes of it
	Reason error  // ErrDenied, ErrTimeout, …: fit for peers
	Err    error  // details, or nil; fit for the agent that made the call
}

// Error implements the error interface.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("tool %q: %v", e.Tool, e.Reason)
	case errors.Is(e.Err, e.Reason): // it says so itself
		return fmt.Sprintf("tool %q: %v", e.Tool, e.Err)
	default:
		return fmt.Sprintf("tool %q: %v: %v", e.Tool, e.Reason, e.Err)
	}
}

// Unwrap returns Reason and, if there is one, Err.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}
