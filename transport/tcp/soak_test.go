//go:build soak

package tcp_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport/tcp"
	"github.com/converge-agents/converge/transport/transporttest"
)

// attackers is how many goroutines attack.
const attackers = 4

// siege is an attack on one agent of a fabric.
type siege struct {
	*fabric
	t      *testing.T
	victim *member
	conns  [attackers]net.Conn
	count  [attackers]int
}

func besiege(t *testing.T) *siege {
	return &siege{fabric: &fabric{Wires: transporttest.NewWires(t)}, t: t}
}

// attack runs the siege, and reports what the victim counted.
func (s *siege) attack(frames int, attack func(ctx context.Context, attacker int, frame []byte) error) {
	transporttest.Malformed(s.t, s, transporttest.MalformedConfig{
		Frames: frames, Attackers: attackers, Attack: attack, Victim: s.find,
	})
	for _, conn := range s.conns {
		if conn != nil {
			conn.Close()
		}
	}
	stats := s.victim.network.Stats()
	s.t.Logf("connections opened %d, frames in %d, refused %v", stats.Opened, stats.FramesIn, stats.Refused)
}

// find notes who is attacked, and lets the attackers in as peers.
func (s *siege) find(id identity.ID) {
	for _, m := range s.members {
		if m.id.ID() == id {
			s.victim = m
		}
	}
	for i := range attackers {
		s.victim.add(s.t, person(s.t, mallory+byte(i)), "")
	}
}

// TestSoakMalformedFramesOfAMember: an agent that turned bad sends them by its transport.
func TestSoakMalformedFramesOfAMember(t *testing.T) {
	besiege(t).attack(1_000_000, nil)
}

// TestSoakMalformedFramesInsideTLS: peers whose keys are proved send what is no message, and every ten
// thousandth time what is no frame, which costs them the connection.
func TestSoakMalformedFramesInsideTLS(t *testing.T) {
	s := besiege(t)
	s.attack(1_000_000, func(_ context.Context, attacker int, payload []byte) error {
		if s.conns[attacker] == nil {
			conn, err := s.intrude(attacker)
			if err != nil {
				return err
			}
			s.conns[attacker] = conn
		}
		bytes := frame(0, string(payload))
		if s.count[attacker]++; s.count[attacker]%10_000 == 0 {
			bytes = payload
		}
		_, err := s.conns[attacker].Write(bytes)
		if err != nil {
			s.conns[attacker].Close()
			s.conns[attacker] = nil
		}
		return err
	})
}

// intrude connects an attacker as a peer.
func (s *siege) intrude(attacker int) (net.Conn, error) {
	raw, err := net.Dial("tcp", s.victim.network.Addr().String())
	if err != nil {
		return nil, err
	}
	config := peertls.Client(peertls.NewCredential(person(s.t, mallory+byte(attacker)), nil), s.victim.id.ID(), mesh.Protocol)
	conn := tls.Client(raw, config)
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(greeting()); err != nil {
		raw.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// TestSoakMalformedFramesOnThePort: strangers send them, each on a connection of its own.
func TestSoakMalformedFramesOnThePort(t *testing.T) {
	s := besiege(t)
	s.attack(1_000_000, func(ctx context.Context, attacker int, payload []byte) error {
		s.count[attacker]++
		from := &net.TCPAddr{IP: net.IPv4(127, byte(attacker)+1, byte(s.count[attacker]>>8), byte(s.count[attacker]))}
		conn, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp", s.victim.network.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = conn.Write(payload); err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		conn.Read(make([]byte, 1)) // until the listener has closed it
		return nil
	})
}

// TestSoakSlowSockets: ten thousand sockets that never finish their handshake do not keep honest agents out.
func TestSoakSlowSockets(t *testing.T) {
	for name, first := range map[string]string{
		"silent": "", "a ClientHello that does not end": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	} {
		t.Run(name, func(t *testing.T) {
			bob := enter(t, bob, tcp.Config{Peers: []tcp.Peer{{ID: person(t, alice).ID()}}})
			config := peertls.Client(peertls.NewCredential(person(t, alice), nil), bob.ID(), mesh.Protocol)
			shake := func(ctx context.Context) error {
				raw, err := new(net.Dialer).DialContext(ctx, "tcp", bob.address())
				if err != nil {
					return err
				}
				defer raw.Close()
				deadline, _ := ctx.Deadline()
				raw.SetDeadline(deadline)
				conn := tls.Client(raw, config)
				if _, err := conn.Write(greeting()); err != nil {
					return err
				}
				answer := make([]byte, 5)
				if _, err := conn.Read(answer); err != nil || answer[4] != 1 {
					return fmt.Errorf("no hello comes: %x, %w", answer, err)
				}
				return nil
			}
			transporttest.SlowSockets(t, bob.address(), 10_000, transporttest.SlowConfig{Handshake: shake, First: []byte(first)})
			stats := bob.network.Stats()
			t.Logf("refused %v", stats.Refused)
		})
	}
}
