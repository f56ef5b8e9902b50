package http

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPublicAddressesAreAllowed(t *testing.T) {
	for _, text := range []string{"1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "172.32.0.1", "100.128.0.1"} {
		if !guard(nil).allows(netip.MustParseAddr(text)) {
			t.Errorf("%s is public", text)
		}
	}
}

func TestNamedAddressesAreAllowedAndNoOthers(t *testing.T) {
	g := guard(prefixes("10.1.0.0/16", "fd00::/8"))
	for text, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::a01:203": true, "10.2.0.1": false, "fd12::1": true, "fe80::1": false, "127.0.0.1": false} {
		if got := g.allows(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

// FuzzAddressOfValues: whatever the values, the address keeps its scheme, host, number of segments and of query values.
func FuzzAddressOfValues(f *testing.F) {
	for _, seed := range []string{"x", "..", "a/b", "?&#", "\r\n", "%2e", "@", "\\", "ü", "\xff", ""} {
		f.Add(seed, "y")
	}
	tool := &Tool{config: Config{URL: "https://example.com/v1/{a}/x-{b}?q={a}&n={b}"}, params: map[string]bool{}}
	if err := tool.setURL(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := tool.url.fill(values{text: map[string]string{"a": a, "b": b}})
		if err != nil {
			return
		}
		path, query, _ := strings.Cut(strings.TrimPrefix(got, "https://example.com/"), "?")
		if !strings.HasPrefix(got, "https://example.com/v1/") || strings.Count(path, "/") != 2 || strings.Count(query, "&") != 1 || strings.Count(query, "=") != 2 ||
			strings.ContainsAny(got, "#\r\n \\") || strings.Count(got, "?") != 1 {
			t.Errorf("%q, %q: %q", a, b, got)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if isDots(segment) || segment == "" {
				t.Errorf("%q, %q: %q", a, b, got)
			}
		}
	})
}
