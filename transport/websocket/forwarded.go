package websocket

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// from returns the address that a request came from: that of the connection, or, where that is a trusted
// proxy's, what X-Forwarded-For says. The header is read from its end, which the nearest proxy wrote, up
// to the first address that is no trusted proxy's: what stands before that may be anybody's invention.
// The second result says whether there is a trusted proxy between.
func from(r *http.Request, trusted []netip.Prefix) (netip.Addr, bool) {
	addr := addrOf(r.RemoteAddr)
	if !isTrusted(addr, trusted) {
		return addr, false
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		before, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		addr = before.Unmap().WithZone("")
		if !isTrusted(addr, trusted) {
			break
		}
	}
	return addr, true
}

// addrOf returns the address of a host:port; the zero address, which is counted as one, if it is none.
func addrOf(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func isTrusted(addr netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// hostOf returns the host that the client dialled, as far as the request says: the Host header, or what a
// trusted proxy that sets another one says in X-Forwarded-Host.
func hostOf(r *http.Request, viaProxy bool) string {
	if forwarded := r.Header.Get("X-Forwarded-Host"); viaProxy && forwarded != "" {
		return strings.ToLower(forwarded)
	}
	return strings.ToLower(r.Host)
}
