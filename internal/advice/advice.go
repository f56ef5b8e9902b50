// Package advice has errors that say what to do about them: they have a method Hint() string, which commands print below
// the error.
package advice

import "errors"

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint says what to do about the error.
func (e *hinted) Hint() string { return e.hint }

// On returns err with advice. Its text stays as it is.
func On(err error, hint string) error { return &hinted{err, hint} }

// In returns the advice that an error has, or one that it wraps: that of the outermost; "" if there is none.
func In(err error) string {
	if e, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return e.Hint()
	}
	return ""
}
