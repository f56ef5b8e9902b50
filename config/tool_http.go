package config

import (
	"maps"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// HTTP is one HTTP call as a tool. {name} in URL, Headers, JSON and Body stands for the call's parameter of that name,
// and can be nothing but a value there.
type HTTP struct {
	// Method is GET, HEAD, POST, PUT, PATCH or DELETE. Default GET, or POST with a body.
	Method string `key:"method"`
	// URL is the template of the address; required. Scheme and host have no placeholders.
	URL string `key:"url"`
	// Headers are templates by name.
	Headers map[string]string `key:"headers"`
	// SecretHeaders are headers that hold secrets. They go to the host of URL alone.
	SecretHeaders map[string]SecretHeader `key:"secret_headers"`
	// JSON is a body: what it holds as text are templates, and a text that is one placeholder becomes the
	// parameter as it is.
	JSON map[string]any `key:"json"`
	// Body is the template of a body of text. Not together with JSON.
	Body string `key:"body"`
	// Hosts are further hosts that redirects may lead to. Default none: those of URL's host are followed.
	Hosts []string `key:"hosts"`
	// PrivateAddresses are networks or addresses that are not public and may be reached all the same, such as
	// 10.1.0.0/16 or 127.0.0.1. Default none.
	PrivateAddresses []string `key:"private_addresses"`
	// UnsafeHTTP lets URL and redirects be without TLS. Default false.
	UnsafeHTTP bool `key:"unsafe_http"`
}

// SecretHeader is a header whose value is a secret, after a prefix such as "Bearer ".
type SecretHeader struct {
	Secret
	Prefix string `key:"prefix"`
}

func (t Tool) isHTTP() bool { return !reflect.ValueOf(t.HTTP).IsZero() }

func (k checker) http(key string, h HTTP) {
	if h.Method != "" {
		k.oneOf(child(key, "method"), h.Method, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
	}
	k.httpURL(child(key, "url"), h)
	if h.JSON != nil && h.Body != "" {
		k.bad(child(key, "body"), "", "not together with json")
	}
	for _, name := range slices.Sorted(maps.Keys(h.SecretHeaders)) {
		at := child(child(key, "secret_headers"), name)
		if s := h.SecretHeaders[name].Secret; s == (Secret{}) {
			k.bad(at, "say where it is: {file: PATH} or {env: VARIABLE}", "want a secret")
		} else {
			k.secret(at, s)
		}
	}
	for i, text := range h.PrivateAddresses {
		if _, err := netip.ParsePrefix(text); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(text); err != nil {
			k.bad(item(child(key, "private_addresses"), i), "write it such as 10.1.0.0/16 or 127.0.0.1", "not a network or address: %q", clip(text))
		}
	}
}

func (k checker) httpURL(key string, h HTTP) {
	scheme, rest, found := strings.Cut(h.URL, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	switch {
	case h.URL == "":
		k.bad(key, "", "required")
	case scheme == "http" && !h.UnsafeHTTP:
		k.bad(key, "use https, or set unsafe_http to send all in the clear", "http is not allowed")
	case !found || scheme != "https" && scheme != "http":
		k.bad(key, "write it such as https://api.example.com/v1/{id}", "want an https address, not %q", clip(h.URL))
	case strings.ContainsAny(host, "{}"):
		k.bad(key, "a parameter may not choose where the call goes: write a tool for each host", "placeholder in the host")
	default:
		if u, err := url.Parse(scheme + "://" + host); err != nil || u.Hostname() == "" || u.User != nil {
			k.bad(key, "write it such as https://api.example.com/v1/{id}", "not a host: %q", clip(host))
		}
	}
}
