package http

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

var (
	// special are the parts of the IPv4 addresses that are not public, and of the public ones of IPv6: those for
	// documentation and tests, and those with an IPv4 address inside. RFC 6890 and IANA's registries.
	special = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
	public6 = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
)

// guard holds the addresses that may be connected to beside public ones.
type guard []netip.Prefix

// allows reports whether an address may be connected to. An IPv4 address counts as such, however it is written.
func (g guard) allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		bytes := addr.As16()
		addr = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(g, contains) {
		return true
	}
	if slices.ContainsFunc(special, contains) {
		return false
	}
	return addr.Is4() || public6.Contains(addr)
}

// control is called with the address of each connection, before it is made.
func (g guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: it is none of TCP", ErrAddress)
	}
	if !g.allows(to.Addr()) {
		return fmt.Errorf("%w: %s is not public: to allow it, name it in PrivateAddresses", ErrAddress, to.Addr())
	}
	return nil
}
