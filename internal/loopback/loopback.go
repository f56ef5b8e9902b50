// Package loopback says which hosts are this machine. What may go without TLS, or be open without a password, hangs on
// it, so that it says no when in doubt.
package loopback

import (
	"net/netip"
	"strings"
)

// Is reports whether host, as in a URL or before a port and without brackets, is this machine: an address of 127.0.0.0/8
// or ::1, or the name localhost, in any case. Everything else is not: the empty host and 0.0.0.0, which are all
// addresses to those who listen; addresses with a zone; short, octal and other forms that programs read differently; and
// names, localhost with a dot among them, which a resolver may send anywhere.
func Is(host string) bool {
	if strings.ToLower(host) == "localhost" { // EqualFold takes the long s for an s
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" && addr.IsLoopback()
}
