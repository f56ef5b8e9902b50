package http

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/url"
)

// Why a call was not made, or not to its end.
var (
	ErrAddress  = errors.New("address not allowed")
	ErrRedirect = errors.New("redirect not followed")
)

// StatusError is the error of an answer that says that the call failed.
type StatusError struct {
	Status int // 400 and above, or a redirect that says not where to
	// Body holds the first bytes of the answer. They can tell what was wrong, but may hold what was in the params, so they
	// are no part of the error's text. Secrets that the server repeats as they are have been taken out.
	Body string
}

// Error implements the error interface.
func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d %s", e.Status, nethttp.StatusText(e.Status))
}

// reason makes an error of the client's that holds nothing of the address and nothing that the server wrote.
func reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if errors.Is(err, ErrAddress) || errors.Is(err, ErrRedirect) {
		return err
	}
	_, isNet := errors.AsType[net.Error](err)
	_, isDNS := errors.AsType[*net.DNSError](err)
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	_, isHost := errors.AsType[x509.HostnameError](err)
	if isNet || isDNS || isTLS || isHost {
		return err
	}
	return errors.New("the server gave no valid answer")
}
