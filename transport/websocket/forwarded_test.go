package websocket

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestForwardedAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
		viaProxy  bool
	}{
		{"192.0.2.1:1", nil, "192.0.2.1", false},
		{"192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1", false},
		{"127.0.0.1:1", nil, "127.0.0.1", true},
		{"127.0.0.1:1", []string{""}, "127.0.0.1", true},
		{"127.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1", true},
		{"[::ffff:127.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1", true},
		{"127.0.0.1:1", []string{"6.6.6.6, 198.51.100.1"}, "198.51.100.1", true},
		{"127.0.0.1:1", []string{"6.6.6.6", "198.51.100.1,10.0.0.9"}, "198.51.100.1", true},
		{"127.0.0.1:1", []string{"10.0.0.8, 10.0.0.9"}, "10.0.0.8", true},
		{"127.0.0.1:1", []string{"198.51.100.1, garbage, 10.0.0.9"}, "10.0.0.9", true},
		{"127.0.0.1:1", []string{"198.51.100.1:4711"}, "127.0.0.1", true},
		{"127.0.0.1:1", []string{"2001:db8::1"}, "2001:db8::1", true},
		{"127.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1", true},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got, viaProxy := from(r, trusted); got.String() != c.want || viaProxy != c.viaProxy {
			t.Errorf("from %s, forwarded for %q: %s, %t, want %s, %t", c.remote, c.forwarded, got, viaProxy, c.want, c.viaProxy)
		}
	}
	if got, viaProxy := from(&http.Request{RemoteAddr: "@"}, trusted); got.IsValid() || viaProxy {
		t.Errorf("from a connection without an address: %s, %t", got, viaProxy)
	}
}

func TestPlainHost(t *testing.T) {
	for host, want := range map[string]string{
		"Example.ORG": "example.org", "example.org:443": "example.org", "example.org:80": "example.org",
		"example.org:8443": "example.org:8443", "[::1]:443": "[::1]", ":443": ":443", "": "",
	} {
		if got := plainHost(host); got != want {
			t.Errorf("plainHost(%q) = %q, want %q", host, got, want)
		}
	}
}
