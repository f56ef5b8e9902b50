// Package http makes a tool of an HTTP call.
//
// The call is given by the [Config], and so are the places of its values; params fill in values and nothing else. What
// holds whatever the params are, and whatever the server answers:
//
//   - The call goes to the host of the URL, which is fixed, and redirects to that or one of Hosts. It goes by TLS,
//     unless UnsafeHTTP allows otherwise.
//   - A param is one path segment or part of one, one value of the query, one line of a header, one value in a JSON body.
//     It cannot climb to another path, add to the query, or begin another header.
//   - No address is connected to that is not public (loopback, private, link-local and so metadata services, shared,
//     multicast, reserved, whether as such, mapped to IPv6 or behind the well-known prefix of NAT64), unless it is in
//     PrivateAddresses. It is the address that is checked, at each connection, after the name was looked up. So a name
//     that changes its addresses does not help, and proxies, those of the environment too, are not used.
//   - Secrets come from the environment or from files, go to the scheme, host and port of the URL alone, and are in no
//     error and no log. Where a server repeats one as it is, it is taken out of the output. A server that repeats it in
//     another form cannot be kept from that: secrets are for servers that are trusted with them.
//   - Time and size are bounded, of headers too. Nothing is decompressed.
//
// Each call has a connection of its own. Nothing of it is left afterwards.
package http

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/template"
	"github.com/converge-agents/converge/tool"
)

// Defaults and bounds.
const (
	DefaultTimeout = 30 * time.Second
	MaxErrorBody   = 4 << 10 // bytes that a [StatusError] keeps

	maxRedirects   = 5
	maxHeaderBytes = 64 << 10
)

// Config describes an HTTP call as a tool.
//
// URL, Headers, JSON and Body are templates. In a template, {name} stands for the param of that name, which is then
// required; {{ and }} stand for braces. A param is a string, a number or a boolean; one that is a whole text of JSON may be
// anything.
type Config struct {
	// Name is the tool's name; required.
	Name string
	// Description says, for people and models, what the tool does.
	Description string
	// Method is GET, HEAD, POST, PUT, PATCH or DELETE. "" is GET, or POST if there is a body.
	Method string
	// URL is the address: https, unless UnsafeHTTP is set, with a host without placeholders, without user and fragment;
	// required.
	URL string
	// Headers are sent with each call.
	Headers map[string]string
	// Secrets are headers too, by their names.
	Secrets map[string]Secret
	// JSON is the body: a tree of map[string]any, []any, string, bool, numbers and nil. Each string is a template, keys are
	// none.
	JSON any
	// Body is a body of text. Its type is that of the header Content-Type, or else text/plain. Not together with JSON.
	Body string
	// Hosts are further hosts that redirects may lead to, each with its port if that is not the scheme's.
	Hosts []string
	// PrivateAddresses may be connected to although they are not public.
	PrivateAddresses []netip.Prefix
	// RootCAs are the authorities that sign for servers; nil are those that this machine trusts.
	RootCAs *x509.CertPool
	// Timeout bounds a call. 0 is [DefaultTimeout].
	Timeout time.Duration
	// UnsafeHTTP allows URL, and redirects, to be without TLS: whoever is on the way reads and alters all, secrets
	// included.
	UnsafeHTTP bool
}

// Tool is an HTTP call as a [tool.Tool]. It is a [tool.Describer] and [tool.Annotated] too. It holds nothing between
// calls and needs no closing.
type Tool struct {
	config  Config
	url     address
	headers map[string]template.Template
	secrets map[string]string // headers whole, by canonical names
	hidden  []string          // the secrets alone, the longest first, since one may be part of another
	json    node
	body    template.Template
	params  map[string]bool // whether they have to be text
	client  *nethttp.Client
}

// New checks the whole configuration and reads the secrets. Its errors name the field at fault.
func New(c Config) (*Tool, error) {
	t := &Tool{config: c, params: map[string]bool{}}
	for _, step := range []func() error{t.check, t.setURL, t.setHeaders, t.setSecrets, t.setBody, t.setHosts} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("http tool %q: %w", c.Name, err)
		}
	}
	t.setClient()
	return t, nil
}

func (t *Tool) check() error {
	c := &t.config
	hasBody := c.JSON != nil || c.Body != ""
	if c.Method == "" {
		c.Method = nethttp.MethodGet
		if hasBody {
			c.Method = nethttp.MethodPost
		}
	}
	methods := []string{nethttp.MethodGet, nethttp.MethodHead, nethttp.MethodPost, nethttp.MethodPut, nethttp.MethodPatch, nethttp.MethodDelete}
	switch {
	case c.Name == "":
		return errors.New("field Name is required")
	case !slices.Contains(methods, c.Method):
		return fmt.Errorf("field Method is %q; give one of %s", c.Method, strings.Join(methods, ", "))
	case c.JSON != nil && c.Body != "":
		return errors.New("fields JSON and Body: give one of them")
	case hasBody && (c.Method == nethttp.MethodGet || c.Method == nethttp.MethodHead):
		return fmt.Errorf("field Method: %s has no body: leave out JSON and Body", c.Method)
	case c.Timeout < 0:
		return errors.New("field Timeout is negative; 0 means its default")
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.PrivateAddresses = slices.Clone(c.PrivateAddresses)
	return nil
}

func (t *Tool) setHosts() error {
	hosts := []string{}
	for i, host := range t.config.Hosts {
		u, err := url.Parse("https://" + host)
		if err != nil || u.Host != host || u.Hostname() == "" {
			return fmt.Errorf("field Hosts[%d] %q: give a host, or host:port", i, host)
		}
		hosts = append(hosts, strings.ToLower(host))
	}
	t.config.Hosts = hosts
	return nil
}

func (t *Tool) setClient() {
	dialer := &net.Dialer{ControlContext: guard(t.config.PrivateAddresses).control}
	t.client = &nethttp.Client{
		CheckRedirect: t.checkRedirect,
		Transport: &nethttp.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: t.config.RootCAs, MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
	}
}

// text notes params that have to be text.
func (t *Tool) text(tmpl template.Template) {
	for _, name := range tmpl.Params() {
		t.params[name] = true
	}
}

// Name implements [tool.Tool].
func (t *Tool) Name() string { return t.config.Name }

// Description implements [tool.Describer].
func (t *Tool) Description() string { return t.config.Description }

// Annotations implements [tool.Annotated]: GET and HEAD change nothing, DELETE destroys.
func (t *Tool) Annotations() tool.Annotations {
	return tool.Annotations{
		ReadOnly:    t.config.Method == nethttp.MethodGet || t.config.Method == nethttp.MethodHead,
		Destructive: t.config.Method == nethttp.MethodDelete,
		OpenWorld:   true,
	}
}

// InputSchema implements [tool.Describer]: an object that holds each param of the templates, and nothing else. The schema
// is the caller's own.
func (t *Tool) InputSchema() *jsonschema.Schema {
	names := slices.Sorted(maps.Keys(t.params))
	schema := &jsonschema.Schema{
		Type:                 "object",
		Properties:           map[string]*jsonschema.Schema{},
		Required:             names,
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
		PropertyOrder:        names,
	}
	for name, isText := range t.params {
		schema.Properties[name] = &jsonschema.Schema{}
		if isText {
			schema.Properties[name].Types = []string{"string", "number", "boolean"}
		}
	}
	return schema
}

// Run implements [tool.Tool]. Statuses from 400 on are a [*StatusError]; params that do not fit wrap
// [tool.ErrInvalidParams], an answer beyond [tool.OutputLimit], or beyond [tool.DefaultMaxOutput] without a guard, wraps
// [tool.ErrOutputTooLarge], an address that is not allowed [ErrAddress], a redirect that is not [ErrRedirect], and the end of
// ctx wraps its cause. No error's text holds a param's value, a secret, or what the server wrote.
func (t *Tool) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	values, err := t.values(params)
	if err != nil {
		return tool.Output{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.config.Timeout, fmt.Errorf("no answer within %s: %w", t.config.Timeout, context.DeadlineExceeded))
	defer cancel()
	request, err := t.request(ctx, values)
	if err != nil {
		return tool.Output{}, err
	}
	output, err := t.call(ctx, request)
	if err != nil {
		return tool.Output{}, fmt.Errorf("%s %s: %w", t.config.Method, t.url.host, err)
	}
	return output, nil
}

func (t *Tool) request(ctx context.Context, values values) (*nethttp.Request, error) {
	target, err := t.url.fill(values)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	contentType := ""
	switch {
	case t.json != nil:
		text, err := json.Marshal(t.json.fill(values))
		if err != nil {
			return nil, fmt.Errorf("%w: they make no JSON", tool.ErrInvalidParams)
		}
		body, contentType = bytes.NewReader(text), "application/json"
	case t.body != nil:
		body, contentType = strings.NewReader(t.body.Fill(values.text)), "text/plain; charset=utf-8"
	}
	request, err := nethttp.NewRequestWithContext(ctx, t.config.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%w: they make no address", tool.ErrInvalidParams) // the error would hold them
	}
	request.Header = nethttp.Header{"User-Agent": {"converge"}}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if err := t.fillHeaders(request.Header, values); err != nil {
		return nil, err
	}
	return request, nil
}

// call makes the request and reads the answer.
func (t *Tool) call(ctx context.Context, request *nethttp.Request) (tool.Output, error) {
	limit, ok := tool.OutputLimit(ctx)
	if !ok {
		limit = tool.DefaultMaxOutput
	}
	answer, err := t.client.Do(request)
	if err != nil {
		return tool.Output{}, reason(ctx, err)
	}
	defer answer.Body.Close()
	status := answer.StatusCode
	if status >= 400 {
		return tool.Output{}, &StatusError{Status: status, Body: t.errorBody(answer.Body)}
	}
	if status >= 300 || status < 200 {
		return tool.Output{}, &StatusError{Status: status}
	}
	if encoding := answer.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return tool.Output{}, errors.New("the answer is encoded, though that was not asked for")
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, int64(limit)+1))
	switch {
	case len(data) > limit:
		return tool.Output{}, fmt.Errorf("%w: more than %d bytes", tool.ErrOutputTooLarge, limit)
	case err != nil:
		return tool.Output{}, reason(ctx, err)
	}
	return tool.Output{Data: t.redact(data), ContentType: mediaType(string(t.redact([]byte(answer.Header.Get("Content-Type")))))}, nil
}

// errorBody returns the first bytes of an answer, or as much as there is. Of a secret that is cut off where the reading
// ends, nothing is left.
func (t *Tool) errorBody(body io.Reader) string {
	const most = MaxErrorBody + maxSecret
	text, _ := io.ReadAll(io.LimitReader(body, most))
	whole := len(text) < most
	text = t.redact(text)
	if !whole && len(t.hidden) > 0 {
		text = text[:max(0, len(text)-len(t.hidden[0]))]
	}
	return cut.Text(string(text), MaxErrorBody)
}

// mediaType keeps what is a media type.
func mediaType(text string) string {
	if _, _, err := mime.ParseMediaType(text); err != nil || len(text) > 256 {
		return "application/octet-stream"
	}
	return text
}

// checkRedirect keeps redirects on the list. What is secret stays with whom it is for, and nobody learns from where the
// call came.
func (t *Tool) checkRedirect(next *nethttp.Request, via []*nethttp.Request) error {
	host := strings.ToLower(next.URL.Host)
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d", ErrRedirect, maxRedirects)
	case next.URL.Scheme != "https" && (next.URL.Scheme != "http" || !t.config.UnsafeHTTP):
		return fmt.Errorf("%w: it leads away from https", ErrRedirect)
	case next.URL.User != nil:
		return fmt.Errorf("%w: it names a user", ErrRedirect)
	case host != t.url.host && !slices.Contains(t.config.Hosts, host):
		return fmt.Errorf("%w: it leads to a host that is not on the list", ErrRedirect)
	}
	next.Header.Del("Referer")
	if host != t.url.host || next.URL.Scheme != t.url.scheme {
		for name := range t.secrets {
			next.Header.Del(name)
		}
	}
	return nil
}
