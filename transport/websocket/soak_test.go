//go:build soak

package websocket_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/transporttest"
	"github.com/converge-agents/converge/transport/websocket"
)

// lasting is a fabric whose connections outlive a busy machine.
func lasting(f *fabric) *fabric {
	f.config.HandshakeTimeout, f.config.IdleTimeout, f.config.Grace = 5*time.Second, 45*time.Second, 5*time.Second
	return f
}

func TestMillionMalformedFramesOfAMember(t *testing.T) {
	t.Run("Certificate", func(t *testing.T) {
		transporttest.Malformed(t, lasting(newFabric(t, websocket.Config{}, "wss", websocket.Certificate)), transporttest.MalformedConfig{})
	})
	t.Run("Challenge", func(t *testing.T) {
		transporttest.Malformed(t, lasting(newFabric(t, websocket.Config{}, "ws", websocket.Challenge)), transporttest.MalformedConfig{})
	})
	t.Run("BehindAReverseProxy", func(t *testing.T) {
		ca := newAuthority(t)
		f := lasting(newFabric(t, websocket.Config{RootCAs: ca.pool, TrustedProxies: loopback}, "wss", websocket.Challenge))
		f.front = ca.reverseProxy
		transporttest.Malformed(t, f, transporttest.MalformedConfig{})
	})
}

// TestMillionMalformedFramesOfStrangers has each frame come on a connection of its own: before a handshake, in the
// middle of one, instead of a request, and instead of a challenge.
func TestMillionMalformedFramesOfStrangers(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		scheme := map[websocket.Proof]string{websocket.Certificate: "wss", websocket.Challenge: "ws"}[proof]
		f := lasting(newFabric(t, websocket.Config{}, scheme, proof))
		var victim identity.ID
		count := [16]int{}
		transporttest.Malformed(t, f, transporttest.MalformedConfig{
			Victim: func(id identity.ID) { victim = id },
			Attack: func(ctx context.Context, attacker int, frame []byte) error {
				count[attacker]++
				return assault(ctx, f.members[victim].network.Addr().String(), victim, attacker, count[attacker], frame)
			},
		})
		t.Logf("the victim's network: %+v", f.members[victim].network.Stats())
	})
}

// assault sends a frame in one of several disguises from an address of the attacker's own.
func assault(ctx context.Context, addr string, victim identity.ID, attacker, n int, frame []byte) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(attacker+1))}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0)
	conn.SetDeadline(time.Now().Add(patience))
	upgrade := "GET /converge?" + url.Values{"agent": {victim.String()}}.Encode() + " HTTP/1.1\r\nHost: " + addr +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	switch n % 4 {
	case 0:
		_, err = conn.Write(append(frame, "\r\n\r\n"...))
	case 1:
		_, err = fmt.Fprintf(conn, "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03%s\r\n\r\n", frame)
	case 2:
		_, err = conn.Write(append([]byte(upgrade), frame...))
	default:
		_, err = conn.Write(append([]byte(upgrade), wsFrame(fin|opBinary, frame)...))
	}
	if err == nil {
		conn.(*net.TCPConn).CloseWrite()
		_, err = io.Copy(io.Discard, conn)
	}
	return err
}

func TestTenThousandSlowSockets(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		first := []byte("GET /converge HTTP/1.1\r\nHost: ")
		if proof == websocket.Certificate {
			first = []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
		}
		s := newScene(t, proof, nil)
		transporttest.SlowSockets(t, s.addr(), 10_000, transporttest.SlowConfig{
			First: first, Handshake: func(ctx context.Context) error { return s.handshake(ctx) },
		})
		t.Logf("the network: %+v", s.network.Stats())
		s.honest()
	})
}

// handshake makes one honest connection, up to where the other end is proved.
func (s *scene) handshake(ctx context.Context) error {
	i, err := s.tryToIntrude(s.mallory, http.Header{}, nil)
	if err != nil {
		return err
	}
	defer i.ws.Close(coder.StatusNormalClosure, "")
	if s.proof == websocket.Certificate {
		return nil
	}
	return websocket.ProveClient(ctx, i.ws, s.mallory, s.alice.ID(), s.addr())
}

// TestPeerThatPingsAndNeverReadsIsDisconnected: its pings are answered, until there is no room for an answer.
func TestPeerThatPingsAndNeverReadsIsDisconnected(t *testing.T) {
	s := newScene(t, websocket.Challenge, nil)
	i := s.join(s.mallory)
	s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
	s.refuses("stalled", func() {
		for s.network.Connected(s.mallory.ID()) {
			s.listener.Send(t.Context(), transport.Route{To: s.mallory.ID()}, make([]byte, 64<<10))
			i.write(wsFrame(fin|opPing, nil))
			time.Sleep(time.Millisecond)
		}
	})
}

// TestConformanceWithChallenges is TestConformanceBehindAReverseProxy without the proxy.
func TestConformanceWithChallenges(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		return newFabric(t, websocket.Config{}, "ws", websocket.Challenge)
	})
}
