package message

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
)

// Reason is a sort of refusal. Each is an error to compare with [errors.Is], and its text is a metric
// label.
type Reason uint8

// The reasons, in the order of the checks.
const (
	ErrTooLarge        Reason = iota + 1 // larger than the limit
	ErrMalformed                         // not an envelope in the one accepted encoding
	ErrUnsupported                       // a suite, mode or critical header that this version does not know
	ErrUnknownSender                     // the sender is not in the registry
	ErrRevoked                           // the sender's root key has revoked it
	ErrQuarantined                       // the sender's root key contradicts itself; see identity.Registry.Apply
	ErrUnknownEpoch                      // signed in a key epoch that does not count: never, not yet known, or no more
	ErrKeyNotInForce                     // the sender's key is not valid yet, or has expired
	ErrMisaddressed                      // for another network, another agent or a topic that is not subscribed
	ErrUnsealed                          // for this agent alone and not sealed, where sealing is required
	ErrExpired                           // older than its expiry or than MaxAge
	ErrNotYetValid                       // issued further in the future than Skew
	ErrBadSignature                      // the sender's key did not sign these bytes
	ErrUnopenable                        // the signature is fine, but none of this agent's sealing keys opens the body
	ErrReplayed                          // accepted before, or too far behind to know
	ErrStaleSession                      // the first message of a session that is older than what was seen last
	ErrTooManySessions                   // the sender, or the agent's table of senders, is at its bound
	ErrNoMarks                           // the replay marks are not open, or cannot be written; it may pass later
	reasonCount
)

var reasonNames = [reasonCount]string{
	ErrTooLarge:        "too_large",
	ErrMalformed:       "malformed",
	ErrUnsupported:     "unsupported",
	ErrUnknownSender:   "unknown_sender",
	ErrRevoked:         "revoked",
	ErrQuarantined:     "quarantined",
	ErrUnknownEpoch:    "unknown_epoch",
	ErrKeyNotInForce:   "key_not_in_force",
	ErrMisaddressed:    "misaddressed",
	ErrUnsealed:        "unsealed",
	ErrExpired:         "expired",
	ErrNotYetValid:     "not_yet_valid",
	ErrBadSignature:    "bad_signature",
	ErrUnopenable:      "unopenable",
	ErrReplayed:        "replayed",
	ErrStaleSession:    "stale_session",
	ErrTooManySessions: "too_many_sessions",
	ErrNoMarks:         "marks_unavailable",
}

// String returns the reason's label: lower case with underscores.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return "unknown"
}

// Error implements error.
func (r Reason) Error() string { return r.String() }

// Reasons returns every reason, for metrics that start at zero.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := Reason(1); r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}

// KeyReason returns the reason for which there is no key to verify with, by the error of a [KeySource].
func KeyReason(err error) Reason {
	switch {
	case err == identity.ErrUnknown: // first, since strangers cause it
	case errors.Is(err, identity.ErrRevoked):
		return ErrRevoked
	case errors.Is(err, identity.ErrQuarantined):
		return ErrQuarantined
	case errors.Is(err, identity.ErrEpoch):
		return ErrUnknownEpoch
	case errors.Is(err, identity.ErrNotInForce):
		return ErrKeyNotInForce
	}
	return ErrUnknownSender
}

// Refusal is the error of [Verifier.Verify]. It unwraps to its Reason and to Err.
type Refusal struct {
	Reason Reason
	Sender identity.ID // whom the frame names as its sender; a claim, and zero if it could not be read
	Size   int         // bytes of the frame
	Err    error       // detail, or nil
}

// Error implements error.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("message refused: %s (%d bytes, claimed sender %s)", r.Reason, r.Size, r.Sender.Short())
	if r.Err != nil {
		text += ": " + r.Err.Error()
	}
	return text
}

// Unwrap returns the reason and the detail.
func (r *Refusal) Unwrap() []error {
	if r.Err == nil {
		return []error{r.Reason}
	}
	return []error{r.Reason, r.Err}
}
