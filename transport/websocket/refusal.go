package websocket

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

// Words of Stats.Refused that only this transport has. The others are those of TLS and of the mesh.
const (
	reasonNotWebSocket peertls.Reason = "not_websocket"   // HTTP, but no upgrade to WebSocket; or not even HTTP
	reasonOrigin       peertls.Reason = "origin"          // a web page that may not connect
	reasonHost         peertls.Reason = "host"            // the client dialled a name that is not ours
	reasonBinding      peertls.Reason = "channel_binding" // TLS ends between the two agents
	reasonChallenge    peertls.Reason = "challenge"       // a challenge that is malformed, or answered wrongly
	reasonProtocol     peertls.Reason = "protocol"        // RFC 6455 is violated; or a flood of control frames
	reasonText         peertls.Reason = "text_message"    // text where only binary messages are due
	reasonByPeer       peertls.Reason = "refused_by_peer" // the other end has closed, with a code of refusal
)

var reasons = []peertls.Reason{
	reasonNotWebSocket, reasonOrigin, reasonHost, reasonBinding, reasonChallenge, reasonProtocol, reasonText, reasonByPeer,
}

// refusalOf returns the refusal that an error during the proof means.
func refusalOf(err error) *peertls.Refusal {
	if r, ok := errors.AsType[*peertls.Refusal](err); ok {
		return r
	}
	return &peertls.Refusal{Reason: reasonOf(err), Err: err}
}

func reasonOf(err error) peertls.Reason {
	for _, known := range []struct {
		err    error
		reason peertls.Reason
	}{
		{errUnknownPeer, peertls.UnknownPeer},
		{errOtherAgent, peertls.UnknownAgent},
		{errHost, reasonHost},
		{errBinding, reasonBinding},
		{errMalformedChallenge, reasonChallenge},
		{errForeignProof, reasonChallenge},
		{errBadProof, reasonChallenge},
		{identity.ErrRevoked, peertls.Revoked},
		{identity.ErrWeakKey, peertls.WrongKey},
		{identity.ErrStatement, peertls.WrongKey},
		{identity.ErrForgedStatement, peertls.WrongKey},
		{identity.ErrNotInForce, peertls.WrongKey},
		{identity.ErrKeyMismatch, peertls.WrongKey},
		{os.ErrDeadlineExceeded, peertls.Timeout},
		{context.DeadlineExceeded, peertls.Timeout},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	return reasonOfStream(err)
}

// reasonOfStream classifies what ends a stream before its time; what the library found wrong has no type,
// but for the size.
func reasonOfStream(err error) peertls.Reason {
	switch {
	case errors.Is(err, errText):
		return reasonText
	case errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded): // which only answers to pings have
		return mesh.Stalled
	case errors.Is(err, errFraming):
		return reasonProtocol
	case errors.Is(err, websocket.ErrMessageTooBig):
		return mesh.FrameTooLarge
	}
	switch websocket.CloseStatus(err) {
	case -1, websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
	default:
		return reasonByPeer
	}
	for _, violation := range []string{
		"unexpected rsv bits", "unmasked frame", "unknown opcode", "fragmented control frame", "invalid length", "negative payload length",
		"invalid close payload", "continuation frame without", "new data message without",
	} {
		if strings.Contains(err.Error(), violation) {
			return reasonProtocol
		}
	}
	return peertls.Handshake
}

// codeOf returns the close code (RFC 6455, section 7.4) that a refusal is announced with.
func codeOf(reason peertls.Reason) websocket.StatusCode {
	switch reason {
	case "", mesh.Duplicate:
		return websocket.StatusNormalClosure
	case mesh.FrameTooLarge:
		return websocket.StatusMessageTooBig
	case reasonProtocol, mesh.Malformed:
		return websocket.StatusProtocolError
	case reasonText:
		return websocket.StatusUnsupportedData
	default:
		return websocket.StatusPolicyViolation
	}
}
