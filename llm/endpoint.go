package llm

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/loopback"
	"github.com/converge-agents/converge/internal/names"
)

// Defaults of an [Endpoint].
const (
	DefaultMaxResponse = 8 << 20
	DefaultSilence     = 2 * time.Minute
)

// Endpoint is where a provider is reached over HTTP, and how. It is the part that all implementations share.
type Endpoint struct {
	Provider string // its name in errors
	BaseURL  string // with http or https; required
	Key      Key    // none for servers that ask for none
	// MaxResponse bounds the bytes of an answer, streamed or not; 0 means DefaultMaxResponse.
	MaxResponse int64
	// Silence is how long the server may say nothing, before its headers or within a stream; 0 means DefaultSilence.
	Silence time.Duration
	// PlaintextUnsafe lets the key go over http to other machines: whoever is on the way can read it.
	PlaintextUnsafe bool
}

// Check reports what is wrong with the endpoint, without showing more than the address's host.
func (e Endpoint) Check() error {
	u, err := url.Parse(e.BaseURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("BaseURL: want an address such as https://api.example.org/v1")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("BaseURL: want neither user, query nor fragment in it; the key has a field of its own")
	case u.Scheme == "http" && !e.Key.IsZero() && !loopback.Is(u.Hostname()) && !e.PlaintextUnsafe:
		return fmt.Errorf("BaseURL: the key would go to %s unencrypted: use https", u.Hostname())
	case e.MaxResponse < 0 || e.Silence < 0:
		return errors.New("MaxResponse and Silence must not be negative; 0 means their defaults")
	case strings.ContainsFunc(e.Key.secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the key has characters that no key has: blanks, line breaks or others beyond ASCII")
	}
	return nil
}

// Client returns a client that follows no redirects, since the key would follow them too, ends answers at MaxResponse
// and those that fall silent, and keeps no connection open for long.
func (e Endpoint) Client() *http.Client {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  0, // a model may think for long: the silence below bounds it
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport:     &bounded{transport, cmp.Or(e.MaxResponse, DefaultMaxResponse), cmp.Or(e.Silence, DefaultSilence)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}

// bounded ends requests whose answer is too large or too slow.
type bounded struct {
	inner   *http.Transport
	most    int64
	silence time.Duration
}

var errRedirect = fmt.Errorf("%w: the server redirects, which is not followed: give the address that it redirects to", ErrRefused)

var errSilence = fmt.Errorf("%w: the server says nothing", ErrTimeout)

// RoundTrip implements [http.RoundTripper].
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	watch := time.AfterFunc(b.silence, func() { cancel(errSilence) })
	response, err := b.inner.RoundTrip(r.WithContext(ctx))
	if err != nil {
		watch.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	if response.StatusCode/100 == 3 {
		watch.Stop()
		response.Body.Close()
		cancel(nil)
		return nil, errRedirect
	}
	response.Body = &boundedBody{response.Body, ctx, cancel, watch, b.silence, b.most}
	return response, nil
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] through.
func (b *bounded) CloseIdleConnections() { b.inner.CloseIdleConnections() }

type boundedBody struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	watch   *time.Timer
	silence time.Duration
	left    int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.watch.Reset(b.silence)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrTooLarge
	}
	if err != nil && err != io.EOF && context.Cause(b.ctx) != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *boundedBody) Close() error {
	b.watch.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// Failure makes an [*Error] of an error that came from below: of a request that got no answer, or none that could be
// read. The text of an error that is not known to be ours is left out.
func (e Endpoint) Failure(ctx context.Context, err error) *Error {
	failed := &Error{Provider: e.Provider}
	var network net.Error
	switch {
	case errors.Is(err, ErrTooLarge):
		failed.Reason = ErrTooLarge
	case errors.Is(err, errRedirect):
		failed.Reason, failed.Err = ErrRefused, errRedirect
	case errors.Is(err, errSilence):
		failed.Reason, failed.Err = ErrTimeout, errors.New("the server says nothing")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		failed.Reason = ErrTimeout
	case ctx.Err() != nil:
		failed.Reason, failed.Err = ErrCancelled, context.Cause(ctx)
	case errors.Is(err, ErrMalformed): // the text is ours
		failed.Reason, failed.Err = ErrMalformed, err
	case errors.As(err, &network) && network.Timeout():
		failed.Reason = ErrTimeout
	case isDial(err):
		failed.Reason, failed.Err = ErrUnreachable, e.host("no connection to")
	case isUnanswered(err):
		failed.Reason, failed.Err = ErrUnreachable, e.host(whyUnanswered(err))
	case errors.Is(err, io.ErrUnexpectedEOF):
		failed.Reason, failed.Err = ErrMalformed, errors.New("the connection ended in the middle of it")
	default:
		failed.Reason, failed.Err = ErrMalformed, errors.New("it is none of this interface: is the address right?")
	}
	return failed
}

// isUnanswered reports whether a request got no answer at all.
func isUnanswered(err error) bool {
	_, ok := errors.AsType[*url.Error](err)
	return ok
}

func whyUnanswered(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "no trust in the certificate of"
	}
	return "the connection broke to"
}

// isDial reports whether no connection came about.
func isDial(err error) bool {
	operation, ok := errors.AsType[*net.OpError](err)
	if ok && operation.Op == "dial" {
		return true
	}
	_, lookup := errors.AsType[*net.DNSError](err)
	return lookup
}

// host returns an error about the server.
func (e Endpoint) host(what string) error {
	if u, err := url.Parse(e.BaseURL); err == nil {
		return fmt.Errorf("%s %s", what, u.Host)
	}
	return errors.New(what + " the server")
}

// Refusal makes an [*Error] of an answer with a status that is none of success, or of an error within a stream, whose
// status is 0. code is the server's word for it, left out unless it looks like one; detail is what it says.
func (e Endpoint) Refusal(status int, header http.Header, code, detail string) *Error {
	failed := &Error{
		Provider: e.Provider, Status: status, Reason: reasonOf(status, code), Code: e.word(code),
		RetryAfter: retryAfter(header, time.Now()), Detail: e.detail(detail),
	}
	if failed.Reason == ErrUnauthorized {
		failed.Err = errors.New("check the key and what it may do")
	}
	return failed
}

func reasonOf(status int, code string) error {
	switch {
	case status == http.StatusTooManyRequests, code == "rate_limit_error", code == "rate_limit_exceeded":
		return ErrRateLimited
	case status == http.StatusServiceUnavailable, status == 529, code == "overloaded_error":
		return ErrOverloaded
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status >= 500, status == 0:
		return ErrServer
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrUnauthorized
	}
	return ErrRefused
}

// word keeps what is one word of the sort that error codes are, and no part of the key.
func (e Endpoint) word(code string) string {
	if !names.Is(code, 64, "_-.") || e.Key.isIn(code) {
		return ""
	}
	return code
}

const maxDetail = 300 // bytes

// detail keeps the beginning of what a server says, on one line, unless it holds a part of the key.
func (e Endpoint) detail(text string) string {
	if e.Key.isIn(text) {
		return ""
	}
	return clean(text, maxDetail)
}

// maxRetryAfter bounds what a server may ask for, so that no number overflows.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads how long a server asks to wait: retry-after-ms, or retry-after in seconds or as a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("retry-after-ms"), 64); err == nil {
		return clampPause(ms * float64(time.Millisecond))
	}
	text := h.Get("retry-after")
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return clampPause(seconds * float64(time.Second))
	}
	if date, err := http.ParseTime(text); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

func clampPause(d float64) time.Duration {
	if !(d > 0) { // NaN included
		return 0
	}
	return time.Duration(min(d, float64(maxRetryAfter)))
}
