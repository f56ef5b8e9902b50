package peertls

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"strings"
)

// Reason is a fixed word for why a connection was refused: the key of a counter.
type Reason string

// The reasons.
const (
	NotTLS        Reason = "not_tls"           // what came is not TLS: plain HTTP, garbage
	Version       Reason = "tls_version"       // TLS 1.3 is not offered
	UnknownAgent  Reason = "unknown_agent"     // an agent is called that is not here
	NoCertificate Reason = "no_certificate"    // none was shown
	Certificate   Reason = "certificate"       // not one self-signed Ed25519 certificate, or out of its time
	WrongKey      Reason = "wrong_key"         // not the key of the agent that was called or named
	UnknownPeer   Reason = "unknown_peer"      // a peer that may not connect
	Revoked       Reason = "revoked"           // a peer whose keys were taken back
	Timeout       Reason = "handshake_timeout" // the handshake took too long
	Handshake     Reason = "handshake"         // anything else that ended the handshake
)

// Reasons lists all of them.
var Reasons = []Reason{NotTLS, Version, UnknownAgent, NoCertificate, Certificate, WrongKey, UnknownPeer, Revoked, Timeout, Handshake}

// Refusal is why a connection was refused. It unwraps to Err. It is for this side only: the other end
// is told no more than an alert of TLS.
type Refusal struct {
	Reason Reason
	Err    error
}

// Error implements error.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Err.Error() }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason Reason, err error) error { return &Refusal{reason, err} }

// Refuse returns the error of a handshake as a [*Refusal].
func Refuse(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return &Refusal{reasonOf(err), err}
}

// reasonOf classifies the errors of package crypto/tls, which are not typed, by their text.
func reasonOf(err error) Reason {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return NotTLS
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return Timeout
	}
	text := err.Error()
	for _, known := range []struct {
		text   string
		reason Reason
	}{
		{"only unsupported versions", Version},
		{"protocol version not supported", Version},
		{"didn't provide a certificate", NoCertificate},
		{"failed to parse c", Certificate},
		{"unsupported public key", Certificate},
		{"RSA key larger", Certificate},
		{"invalid signature by the", WrongKey},
	} {
		if strings.Contains(text, known.text) {
			return known.reason
		}
	}
	return Handshake
}
