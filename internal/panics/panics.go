// Package panics turns panics of code that is not Converge's own (hooks, agents, handlers) into errors,
// so that they cost what they were part of and nothing else.
package panics

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Error is a panic that was caught.
type Error struct {
	What  string // what panicked
	Value any
	Stack []byte
}

// Error implements error; it leaves out the stack.
func (e *Error) Error() string { return fmt.Sprintf("%s panicked: %v", e.What, e.Value) }

// Catch, deferred, sets err to an [*Error] if the function panics.
func Catch(err *error, what string) {
	if v := recover(); v != nil {
		*err = &Error{What: what, Value: v, Stack: debug.Stack()}
	}
}

// LogStack logs the stack at debug if err is a caught panic.
func LogStack(log *slog.Logger, err error) {
	if p, ok := errors.AsType[*Error](err); ok {
		log.Debug(p.What+" panicked", "stack", string(p.Stack))
	}
}
