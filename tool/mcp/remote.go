package mcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/loopback"
)

const (
	dialTimeout   = 10 * time.Second
	streamTimeout = 10 * time.Second // until the header of a stream that is taken up again
	versionHeader = "Mcp-Protocol-Version"
)

// newRemote returns how to connect to a URL.
func newRemote(c Config) (connect, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return nil, errors.New("field URL: it cannot be read") // err repeats it, and it may hold a secret
	case u.User != nil:
		return nil, errors.New("field URL: no name and password in it: use Header")
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("field URL: want https://HOST/PATH, not the scheme %q", cut.Marked(u.Scheme, 16))
	case u.Scheme == "http" && !loopback.Is(u.Hostname()):
		return nil, fmt.Errorf("field URL: http to %q would show all to whoever is on the way: use https", cut.Marked(u.Hostname(), 64))
	}
	return func(ctx context.Context) (*carrier, error) { return dial(ctx, c, u) }, nil
}

func dial(ctx context.Context, c Config, u *url.URL) (*carrier, error) {
	w := &wire{header: http.Header{}, base: &http.Transport{
		DialContext:         dialer(u.Scheme == "http").DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		MaxIdleConns:        16,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
	}}
	if c.Header != nil {
		header, err := c.Header()
		if err != nil {
			return nil, fmt.Errorf("headers: %w", err)
		}
		w.header = header
	}
	t := sdk.StreamableClientTransport{
		Endpoint: u.String(),
		HTTPClient: &http.Client{Transport: w, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects, which is not followed: give the URL where it is")
		}},
		MaxEventSize:         MaxMessage,
		DisableStandaloneSSE: true, // the server is asked, and does not ask
	}
	connection, err := t.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &carrier{connection: connection, version: w.learn, release: w.base.CloseIdleConnections}, nil
}

// dialer connects only to this machine if there is no TLS, whatever the name stands for.
func dialer(plain bool) *net.Dialer {
	d := &net.Dialer{Timeout: dialTimeout}
	if plain {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			if host, _, err := net.SplitHostPort(address); err != nil || !loopback.Is(host) {
				return fmt.Errorf("http to %s, which is not this machine", address)
			}
			return nil
		}
	}
	return d
}

// wire adds the headers to each request and bounds each response.
type wire struct {
	base    *http.Transport
	header  http.Header
	version atomic.Pointer[string]
}

func (w *wire) learn(version string) { w.version.Store(&version) }

// RoundTrip implements [http.RoundTripper].
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	r = r.Clone(ctx)
	for name, values := range w.header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if version := w.version.Load(); version != nil && r.Header.Get(versionHeader) == "" {
		r.Header.Set(versionHeader, *version)
	}
	var timer *time.Timer
	if r.Method != http.MethodPost { // the answer to a call may be long in coming
		timer = time.AfterFunc(streamTimeout, func() { cancel(fmt.Errorf("no answer within %v", streamTimeout)) })
	}
	response, err := w.base.RoundTrip(r)
	if timer != nil {
		timer.Stop()
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Body = &bounded{response.Body, MaxMessage + 1, cancel}
	return response, nil
}

// bounded is a body that is read up to a number of bytes.
type bounded struct {
	io.ReadCloser
	left   int64
	cancel context.CancelCauseFunc
}

var errBody = fmt.Errorf("the response is larger than %d bytes", MaxMessage)

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBody
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *bounded) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
