package websocket_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/transport/websocket"
)

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// mounted is alice, whose Handler is mounted in a server of somebody's own, and carol, who dials her.
type mounted struct {
	*scene
	ca      *authority
	address string // of the server
}

func newMounted(t *testing.T, change func(*websocket.Config)) *mounted {
	t.Helper()
	m := &mounted{scene: &scene{t: t, alice: newAgent(t), bob: newAgent(t), log: &logbook{}}, ca: newAuthority(t)}
	c := websocket.Config{
		Logger: slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Linger: 100 * time.Millisecond,
		Peers: []websocket.Peer{{Name: "bob", ID: m.bob.ID()}},
	}
	if change != nil {
		change(&c)
	}
	m.network, m.listener = m.start(m.alice, c)
	mux := http.NewServeMux()
	mux.Handle("/agents", m.network.Handler())
	m.address = m.ca.serve(t, mux)
	t.Cleanup(func() { m.network.Close() }) // before the server, which waits for its requests
	return m
}

// dial has bob dial alice at an address.
func (m *mounted) dial(address string) {
	m.t.Helper()
	m.bobs, m.speaker = m.start(m.bob, websocket.Config{
		Logger: slog.New(slog.DiscardHandler), RootCAs: m.ca.pool, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Peers: []websocket.Peer{{Name: "alice", ID: m.alice.ID(), Address: "wss://" + address + "/agents", Proof: websocket.Challenge}},
	})
}

func (m *mounted) refusedBy(n *websocket.Network, word string) {
	m.t.Helper()
	m.until("Refused["+word+"] goes up", func() bool { return n.Stats().Refused[word] > 0 })
	if m.network.Stats().Opened != 0 || m.bobs.Stats().Opened != 0 {
		m.t.Error("they are connected all the same")
	}
}

func TestHandlerInAServerOfOnesOwn(t *testing.T) {
	m := newMounted(t, nil)
	m.dial(m.address)
	m.honest()
}

// TestTLSThatEndsInTheMiddleIsRefused has somebody between who holds a certificate for alice's name that bob
// trusts: what he gets is a connection of his own with each, whose bindings differ.
func TestTLSThatEndsInTheMiddleIsRefused(t *testing.T) {
	m := newMounted(t, nil)
	m.dial(m.interceptor())
	m.refusedBy(m.bobs, "channel_binding")
}

// interceptor is a reverse proxy that speaks TLS with both sides, and keeps the header Host.
func (m *mounted) interceptor() string {
	return m.ca.serve(m.t, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: m.address})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.ca.pool}, DisableKeepAlives: true},
		ErrorLog:  quiet,
	})
}

// TestServerRefusesAnotherChannelItself has a client that does not check what it is told.
func TestServerRefusesAnotherChannelItself(t *testing.T) {
	m := newMounted(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.ca.pool}, DisableKeepAlives: true}}
	ws, _, err := coder.Dial(ctx, "wss://"+m.address+"/agents?agent="+m.alice.ID().String(), &coder.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.Write(ctx, coder.MessageBinary, websocket.Greeting(m.bob.ID(), m.bob, m.alice.ID(), m.address))
	_, proof, err := ws.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ws.Write(ctx, coder.MessageBinary, websocket.Unbound(proof, m.bob))
	m.until("alice refuses it", func() bool { return m.network.Stats().Refused["channel_binding"] > 0 })
	if _, _, err := ws.Read(ctx); coder.CloseStatus(err) != coder.StatusPolicyViolation {
		t.Errorf("the connection ended with %v, want code 1008", err)
	}
}

// TestProxyThatIsNamedMayEndTLS is the same as the attack, but with the server's knowledge.
func TestProxyThatIsNamedMayEndTLS(t *testing.T) {
	m := newMounted(t, func(c *websocket.Config) { c.TrustedProxies = loopback })
	m.dial(m.interceptor())
	m.honest()
}

func TestServerWhoseCertificateNobodyVouchesForIsNotDialled(t *testing.T) {
	m := newMounted(t, nil)
	m.ca = newAuthority(t)
	m.dial(m.address)
	if m.bobs.Connected(m.alice.ID()) {
		t.Error("bob is connected with a server that nobody vouches for")
	}
}

// TestForwardedAddressesAreBelievedOfTrustedProxiesOnly: clients that come through a proxy are counted by their own
// addresses, and nobody else's word counts.
func TestForwardedAddressesAreBelievedOfTrustedProxiesOnly(t *testing.T) {
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		word    string // that the second client is refused by
	}{
		{"untrusted", nil, "too_many_from_address"},
		{"trusted", loopback, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, websocket.Challenge, func(config *websocket.Config) {
				config.TrustedProxies, config.MaxPerAddress = c.trusted, 1
			}) // bob has the one connection of 127.0.0.1
			intrude := func(forwarded string) *intruder {
				i, err := s.tryToIntrude(s.mallory, http.Header{"X-Forwarded-For": {"10.0.0.1", forwarded}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := websocket.ProveClient(ctx, i.ws, s.mallory, s.alice.ID(), s.addr()); err != nil {
					t.Fatal(err)
				}
				i.hello()
				return i
			}
			if c.word != "" {
				s.refuses(c.word, func() { intrude("192.0.2.1").endsWith(coder.StatusPolicyViolation) })
				return
			}
			intrude("192.0.2.1")
			s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		})
	}
}

// TestForwardedAddressesAreNotBelievedOfPeers: with certificates nobody is in between, so a peer that sends the header
// has written it itself.
func TestForwardedAddressesAreNotBelievedOfPeers(t *testing.T) {
	s := newScene(t, websocket.Certificate, func(c *websocket.Config) { c.TrustedProxies, c.MaxPerAddress = loopback, 1 })
	s.refuses("too_many_from_address", func() {
		i, err := s.tryToIntrude(s.mallory, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		i.hello()
		i.endsWith(coder.StatusPolicyViolation)
	})
}

// TestCloseEndsRequestsToTheHandler has requests in every stage when the network closes.
func TestCloseEndsRequestsToTheHandler(t *testing.T) {
	m := newMounted(t, nil)
	m.dial(m.address)
	m.honest()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.ca.pool}, DisableKeepAlives: true}}
	target := "wss://" + m.address + "/agents?agent=" + m.alice.ID().String()
	ws, _, err := coder.Dial(ctx, target, &coder.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := m.network.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Error("a connection that had not proved itself outlived the network")
	}
	if _, response, err := coder.Dial(ctx, target, &coder.DialOptions{HTTPClient: client}); err == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a request to a closed network: %v, want status 503", err)
	}
}
