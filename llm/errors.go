package llm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Why a call of a model did not succeed: the values of [Error.Reason]. Those of the first group may go away by
// themselves.
var (
	ErrRateLimited = errors.New("rate limited")
	ErrOverloaded  = errors.New("overloaded")
	ErrServer      = errors.New("server error")
	ErrUnreachable = errors.New("not reachable")
	ErrMalformed   = errors.New("malformed answer") // cut short, or not what the interface promises
	ErrTimeout     = errors.New("timed out")

	ErrUnauthorized = errors.New("key refused")
	ErrRefused      = errors.New("request refused")
	ErrTooLarge     = errors.New("answer too large")
	ErrCancelled    = errors.New("cancelled")
)

// ErrNoKey says that a provider that asks for a key was given none.
var ErrNoKey = errors.New("no API key")

// ErrBudget says that a budget is used up.
var ErrBudget = errors.New("budget used up")

// Error is the error of a call of a model. Its text holds neither the key nor what the server has said at length, as
// that may repeat the prompt; Detail does.
type Error struct {
	Provider   string        // openai or anthropic
	Status     int           // of HTTP; 0 if there was no answer
	Reason     error         // ErrRateLimited, ErrServer, …
	Code       string        // the server's own word for it, such as insufficient_quota; may be ""
	RetryAfter time.Duration // how long the server asks to wait; 0 if it does not say
	Err        error         // details that are ours; may be nil
	// Detail is the beginning of what the server has said, for the log of whoever runs the agent. "" if it said
	// nothing, or repeated a part of the key.
	Detail string
}

// Error implements the error interface.
func (e *Error) Error() string {
	text := fmt.Sprintf("model at %s: ", e.Provider)
	if e.Err == nil || !errors.Is(e.Err, e.Reason) { // else it says so itself
		text += e.Reason.Error()
	}
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.Code != "" {
		text += ": " + e.Code
	}
	if e.Err != nil {
		text = strings.TrimSuffix(text, ": ") + ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Reason and, if there is one, Err.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// Temporary reports whether another attempt may succeed.
func (e *Error) Temporary() bool {
	for _, reason := range []error{ErrRateLimited, ErrOverloaded, ErrServer, ErrUnreachable, ErrMalformed, ErrTimeout} {
		if e.Reason == reason {
			return e.Code != "insufficient_quota" // a 429 of OpenAI that no pause mends
		}
	}
	return false
}
