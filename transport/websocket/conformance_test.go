package websocket_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/transporttest"
	"github.com/converge-agents/converge/transport/websocket"
)

const maxFrame = 1<<20 + 64<<10

// fast makes faults pass quickly, but not so quickly that a busy machine is taken for one.
func fast(c websocket.Config) websocket.Config {
	c.Listen = "127.0.0.1:0"
	c.HandshakeTimeout = 10 * time.Second
	c.IdleTimeout = 3 * time.Second
	c.Grace = 3 * time.Second
	c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
	c.Linger = time.Second
	c.Logger = slog.New(slog.DiscardHandler)
	return c
}

// fabric makes a network for each agent, with a wire between any two.
type fabric struct {
	*transporttest.Wires
	config  websocket.Config
	scheme  string
	proof   websocket.Proof
	front   func(t *testing.T, target string) string // what stands in front of a listener; nil if nothing
	members map[identity.ID]*member
}

func newFabric(t *testing.T, c websocket.Config, scheme string, proof websocket.Proof) *fabric {
	c.Proof = proof
	return &fabric{Wires: transporttest.NewWires(t), config: fast(c), scheme: scheme, proof: proof, members: map[identity.ID]*member{}}
}

// member is an agent's transport with the network that is its own.
type member struct {
	*websocket.Endpoint
	id      identity.ID
	network *websocket.Network
	listens func(addr string)
}

// Start starts the agent, and tells the wires where it listens as soon as it does.
func (m *member) Start(ctx context.Context) error {
	started := make(chan error, 1)
	go func() { started <- m.Endpoint.Start(ctx) }()
	for {
		select {
		case err := <-started:
			if addr := m.network.Addr(); addr != nil {
				m.listens(addr.String())
			}
			return err
		case <-time.After(time.Millisecond):
			if addr := m.network.Addr(); addr != nil {
				m.listens(addr.String())
				return <-started
			}
		}
	}
}

func (f *fabric) Transport(t *testing.T, id *identity.Identity) transport.Transport {
	t.Helper()
	m := f.hire(t, id)
	for _, other := range f.members {
		if other.id != m.id {
			f.introduce(t, m, other)
			f.introduce(t, other, m)
		}
	}
	return m
}

// hire returns an agent that knows nobody.
func (f *fabric) hire(t *testing.T, id *identity.Identity) *member {
	t.Helper()
	n, err := websocket.New(f.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && len(f.members) < 20 {
			t.Logf("%s: %+v", id, n.Stats())
		}
		n.Close()
	})
	m := &member{Endpoint: n.Endpoint(id), id: id.ID(), network: n}
	m.listens = func(addr string) {
		if f.front != nil {
			addr = f.front(t, addr)
		}
		f.Listens(m.id, addr)
	}
	f.members[m.id] = m
	return m
}

// introduce makes one agent know and dial another.
func (f *fabric) introduce(t *testing.T, m, to *member) {
	t.Helper()
	err := m.network.AddPeer(websocket.Peer{ID: to.id, Address: f.scheme + "://" + f.Address(m.id, to.id), Proof: f.proof})
	if err != nil {
		t.Fatal(err)
	}
}

// MaxFrame implements transporttest.Limits.
func (f *fabric) MaxFrame() int { return maxFrame }

// Crowd implements transporttest.Crowder.
func (f *fabric) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	t.Helper()
	f.config.HandshakeTimeout, f.config.IdleTimeout, f.config.Grace = 10*time.Second, 20*time.Second, 10*time.Second // a thousand share the machine
	center := f.hire(t, hub)
	center.listens = func(addr string) {
		if f.front != nil {
			addr = f.front(t, addr)
		}
		for _, m := range f.members {
			if m != center {
				m.network.AddPeer(websocket.Peer{ID: center.id, Address: f.scheme + "://" + addr, Proof: f.proof})
			}
		}
	}
	f.config.Listen = ""
	var around []transport.Transport
	for _, id := range others {
		m := f.hire(t, id)
		if err := center.network.AddPeer(websocket.Peer{ID: m.id}); err != nil {
			t.Fatal(err)
		}
		around = append(around, m.Endpoint)
	}
	return center, around
}

func TestConformanceWithCertificates(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		return newFabric(t, websocket.Config{}, "wss", websocket.Certificate)
	})
}

func TestConformanceBehindAReverseProxy(t *testing.T) {
	ca := newAuthority(t)
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		f := newFabric(t, websocket.Config{RootCAs: ca.pool, TrustedProxies: loopback}, "wss", websocket.Challenge)
		f.front = func(t *testing.T, target string) string { return ca.reverseProxy(t, target) }
		return f
	})
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// reverseProxy starts a reverse proxy with a certificate of the authority in front of target, and returns its
// address.
func (ca *authority) reverseProxy(t *testing.T, target string) string {
	t.Helper()
	return ca.serve(t, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.SetXForwarded()
		},
		ErrorLog: quiet,
	})
}

var quiet = log.New(io.Discard, "", 0)

// serve starts an HTTPS server with a certificate of the authority, and returns its address.
func (ca *authority) serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = quiet
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "127.0.0.1", "localhost", "agents.example.org")}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
