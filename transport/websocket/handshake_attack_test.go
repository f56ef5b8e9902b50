package websocket_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport/websocket"
)

func TestTLSOfStrangersIsRefused(t *testing.T) {
	long := func() time.Time { return time.Now().Add(-60 * 24 * time.Hour) }
	for _, c := range []struct {
		name, word string
		config     func(s *scene) *tls.Config
	}{
		{"a key that is no peer's", "unknown_peer", func(s *scene) *tls.Config { return clientTLS(s, newAgent(s.t), nil) }},
		{"an expired certificate", "certificate", func(s *scene) *tls.Config {
			c := clientTLS(s, s.mallory, nil)
			c.GetClientCertificate = clientTLS(s, s.mallory, long).GetClientCertificate
			return c
		}},
		{"a certificate by an authority", "certificate", func(s *scene) *tls.Config {
			c := clientTLS(s, s.mallory, nil)
			ca := newAuthority(s.t)
			cert := ca.sign(s.t, &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)},
				ca.cert, s.mallory.PublicKey())
			own, err := c.GetClientCertificate(nil)
			if err != nil {
				s.t.Fatal(err)
			}
			c.GetClientCertificate = showing(tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: own.PrivateKey})
			return c
		}},
		{"a certificate of another kind", "certificate", func(s *scene) *tls.Config {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				s.t.Fatal(err)
			}
			ca := newAuthority(s.t)
			cert := ca.sign(s.t, &x509.Certificate{SerialNumber: big.NewInt(3)}, ca.cert, &key.PublicKey)
			c := clientTLS(s, s.mallory, nil)
			c.GetClientCertificate = showing(tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key})
			return c
		}},
		{"no certificate", "no_certificate", func(s *scene) *tls.Config {
			c := clientTLS(s, s.mallory, nil)
			c.GetClientCertificate = showing(tls.Certificate{})
			return c
		}},
		{"TLS 1.2", "tls_version", func(s *scene) *tls.Config {
			c := clientTLS(s, s.mallory, nil)
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}},
		{"a call for an agent that is not here", "unknown_agent", func(s *scene) *tls.Config {
			c := clientTLS(s, s.mallory, nil)
			c.ServerName = peertls.ServerName(s.mallory.ID())
			return c
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := newScene(t, websocket.Certificate, nil)
			s.refuses(c.word, func() {
				i, err := s.tryToIntrude(s.mallory, nil, c.config(s))
				if err == nil {
					i.closed()
					t.Error("the connection was accepted")
				}
			})
		})
	}
}

func clientTLS(s *scene, me *identity.Identity, now func() time.Time) *tls.Config {
	return peertls.Client(peertls.NewCredential(me, now), s.alice.ID(), "http/1.1")
}

func showing(c tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
}

// TestServerWithAnotherKeyIsRefused has the one who is dialled show a key of her own.
func TestServerWithAnotherKeyIsRefused(t *testing.T) {
	s := newScene(t, websocket.Certificate, nil)
	config := clientTLS(s, s.mallory, nil)
	own, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequestClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: quiet, ReadHeaderTimeout: patience}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-serving })
	s.refuses("wrong_key", func() {
		err := s.network.AddPeer(websocket.Peer{Name: "carol", ID: newAgent(t).ID(), Address: "wss://" + l.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestRequestsThatAreNoUpgradesAreRefused has somebody speak HTTP, or something else, to the port.
func TestRequestsThatAreNoUpgradesAreRefused(t *testing.T) {
	get := "GET /converge HTTP/1.1\r\nHost: localhost\r\n\r\n"
	upgrade := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
	for _, c := range []struct {
		name, sent       string
		overTLS, overTCP string // the words
		status           int
	}{
		{"plain HTTP GET", get, "not_tls", "not_websocket", http.StatusUpgradeRequired},
		{"GET of another path", "GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", "not_tls", "not_websocket", http.StatusNotFound},
		{"garbage", strings.Repeat("\xfe\x01garbage", 64) + "\r\n\r\n", "not_tls", "not_websocket", http.StatusBadRequest},
		{"huge header", get[:len(get)-2] + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "not_tls", "not_websocket", http.StatusRequestHeaderFieldsTooLarge},
		{"upgrade for nobody", get[:len(get)-2] + upgrade + "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", "not_tls", "unknown_agent", http.StatusNotFound},
		{"upgrade for somebody else", strings.Replace(get[:len(get)-2], "/converge", "/converge?agent="+strings.Repeat("00", 32), 1) + upgrade + "\r\n", "not_tls", "unknown_agent", http.StatusServiceUnavailable},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Run("Certificate", func(t *testing.T) {
				s := newScene(t, websocket.Certificate, nil)
				s.refuses(c.overTLS, func() { s.converse(c.sent) })
			})
			t.Run("Challenge", func(t *testing.T) {
				s := newScene(t, websocket.Challenge, nil)
				s.refuses(c.overTCP, func() {
					if answer := s.converse(c.sent); !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
						t.Errorf("the answer is %.200q, want status %d", answer, c.status)
					}
				})
			})
		})
	}
}

// converse sends something on a new connection, and returns all that comes back.
func (s *scene) converse(text string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, text) // may be refused half-way
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestProvenPeerThatWantsNoWebSocketIsRefused(t *testing.T) {
	s := newScene(t, websocket.Certificate, nil)
	for _, c := range []struct{ path, status string }{{"/converge", "426"}, {"/other", "404"}} {
		s.refuses("not_websocket", func() {
			conn, err := tls.Dial("tcp", s.addr(), clientTLS(s, s.mallory, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", c.path)
			if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 "+c.status) {
				t.Errorf("the answer is %.200q, want status %s", answer, c.status)
			}
		})
	}
}

func TestWebPageOfAnotherOriginIsRefused(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, func(c *websocket.Config) { c.OriginPatterns = []string{"https://*.example.org"} })
		for _, origin := range []string{"https://evil.example", "http://console.example.org", "null", "https://example.org", ":"} {
			s.refuses("origin", func() {
				if _, err := s.tryToIntrude(s.mallory, http.Header{"Origin": {origin}}, nil); err == nil || !strings.Contains(err.Error(), "403") {
					t.Errorf("a page of origin %q got %v, want status 403", origin, err)
				}
			})
		}
		for _, origin := range []string{"https://console.example.org", "http://" + s.addr()} {
			if _, err := s.tryToIntrude(s.mallory, http.Header{"Origin": {origin}}, nil); err != nil {
				t.Errorf("a page of origin %q: %v", origin, err)
			}
		}
	})
}

// TestOriginWithoutPatternsIsRefused is the default: no web page but one of the server's own.
func TestOriginWithoutPatternsIsRefused(t *testing.T) {
	s := newScene(t, websocket.Challenge, nil)
	s.refuses("origin", func() {
		if _, err := s.tryToIntrude(s.mallory, http.Header{"Origin": {"https://console.example.org"}}, nil); err == nil {
			t.Error("a page of another origin was accepted")
		}
	})
}

// TestSlowHandshakesAreEnded has connections come no further than to each of the stages of a handshake.
func TestSlowHandshakesAreEnded(t *testing.T) {
	t.Parallel()
	quick := func(c *websocket.Config) { c.HandshakeTimeout = 2 * time.Second } // in which honest ones are made on a busy machine too
	request := func(s *scene) string {
		return "GET /converge?" + url.Values{"agent": {s.alice.ID().String()}}.Encode() + " HTTP/1.1\r\nHost: " + s.addr() + "\r\n"
	}
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		for _, c := range []struct {
			name string
			open func(s *scene) net.Conn
		}{
			{"silence", func(s *scene) net.Conn { return s.dial("") }},
			{"the first byte of TLS", func(s *scene) net.Conn { return s.dial("\x16") }},
			{"half a request", func(s *scene) net.Conn {
				if proof == websocket.Certificate {
					conn, err := tls.Dial("tcp", s.addr(), clientTLS(s, s.mallory, nil))
					if err != nil {
						t.Fatal(err)
					}
					io.WriteString(conn, request(s))
					return conn
				}
				return s.dial(request(s))
			}},
			{"an upgrade", func(s *scene) net.Conn { return s.intrude(s.mallory).conn }},
		} {
			t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, proof, quick)
				s.refuses("handshake_timeout", func() {
					conn := c.open(s)
					defer conn.Close()
					conn.SetReadDeadline(time.Now().Add(patience))
					if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
						t.Error("the connection stays open")
					}
				})
			})
		}
	})
}

// dial opens a connection and sends something.
func (s *scene) dial(text string) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	io.WriteString(conn, text)
	return conn
}

// TestLogIsRateLimited has a thousand requests refused: the counter has them all, the log does not.
func TestLogIsRateLimited(t *testing.T) {
	s := newScene(t, websocket.Challenge, nil)
	const requests = 300
	started := time.Now()
	s.refuses("not_websocket", func() {
		for range requests {
			s.converse("GET /converge HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}
	})
	s.until("all are counted", func() bool { return s.network.Stats().Refused["not_websocket"] == requests })
	lines := strings.Count(s.log.String(), "reason=not_websocket")
	if most := 2 + int(time.Since(started)/time.Second); lines > most {
		t.Errorf("%d lines for %d refused requests, want %d at most", lines, requests, most)
	}
}
