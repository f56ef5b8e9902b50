package config

import (
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/converge-agents/converge/internal/loopback"
)

const plaintextHint = "on this machine only, or set unsafe.plaintext: whoever is on the way would read all of it"

// webSocket checks what only the transport websocket has.
func (k checker) webSocket(kind string) {
	w := k.WebSocket
	if w.Proof != "" {
		k.oneOf("websocket.proof", w.Proof, ProofCertificate, ProofChallenge)
	}
	if p := w.Path; p != "" && (!strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.ContainsAny(p, "{}?#% ")) {
		k.bad("websocket.path", `write it such as "/converge"`, "want an absolute path, not %q", clip(p))
	}
	for i, host := range w.Hosts {
		if host == "" || len(host) > 260 || strings.ContainsAny(host, "/@?# ") {
			k.bad(item("websocket.hosts", i), `write it as in URLs, such as "converge.example" or "converge.example:8443"`, "want a host, not %q", clip(host))
		}
	}
	for i, pattern := range w.Origins {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			k.bad(item("websocket.origins", i), `write it such as "*.example.com"`, "not a pattern of origins: %q", clip(pattern))
		}
	}
	for i, proxy := range w.TrustedProxies {
		if _, err := ParsePrefix(proxy); err != nil {
			k.bad(item("websocket.trusted_proxies", i), `write it such as "127.0.0.1" or "10.0.0.0/8"`, "want an address or a network, not %q", clip(proxy))
		}
	}
	k.plaintext(kind)
}

// plaintext checks that what has no TLS stays on this machine.
func (k checker) plaintext(kind string) {
	host, _, err := net.SplitHostPort(k.Listen)
	switch {
	case k.Unsafe.Plaintext && kind != TransportWebSocket:
		k.bad("unsafe.plaintext", "leave it out", "only with the transport websocket")
	case k.Unsafe.OpenBroker && kind != TransportNATS:
		k.bad("unsafe.open_broker", "leave it out", "only with the transport nats")
	case kind != TransportWebSocket || k.WebSocket.Proof != ProofChallenge || k.Unsafe.Plaintext || err != nil:
	case !loopback.Is(host):
		k.bad("listen", "listen "+plaintextHint, "with websocket.proof: challenge, %q would be plain HTTP for all", clip(k.Listen))
	}
}

// ParsePrefix reads an address, which stands for itself, or a network in the notation of CIDR.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(s)
}

// webSocketURL checks where a peer is dialled.
func (k checker) webSocketURL(key, address string) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "wss" && u.Scheme != "ws" || u.Hostname() == "":
		k.bad(key, `write it such as "wss://converge.example/agents"`, "want the URL of a websocket")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		k.bad(key, `write it such as "wss://converge.example/agents"`, "the URL has more than a host and a path")
	case u.Scheme == "ws" && !loopback.Is(u.Hostname()) && !k.Unsafe.Plaintext:
		k.bad(key, "use wss://; ws:// is "+plaintextHint, "ws:// to %q has no TLS", clip(u.Hostname()))
	}
}

func (k checker) peerProof(key string, p Peer, kind string) {
	at := child(key, "proof")
	switch {
	case p.Proof == "":
	case kind != TransportWebSocket:
		k.bad(at, "leave it out", "only with the transport websocket")
	case p.Address == "":
		k.bad(at, "leave it out; websocket.proof says it for those who dial", "only together with address")
	case p.Proof == ProofCertificate && strings.HasPrefix(p.Address, "ws:"):
		k.bad(at, "leave it out, or use wss://", "without TLS there is no certificate")
	default:
		k.oneOf(at, p.Proof, ProofCertificate, ProofChallenge)
	}
}
