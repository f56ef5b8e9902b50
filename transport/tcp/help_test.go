package tcp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMain(m *testing.M) { transporttest.Main(m) }

// patience bounds what should happen at once; only a failing test ever waits that long.
const patience = time.Minute

// journal keeps what is logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// node is an agent with a network of its own.
type node struct {
	*tcp.Endpoint
	t       testing.TB
	network *tcp.Network
	id      *identity.Identity
	log     *journal
	since   time.Time
}

func (n *node) ID() identity.ID { return n.id.ID() }

func (n *node) peer(address string) tcp.Peer { return tcp.Peer{ID: n.ID(), Address: address} }

func (n *node) address() string { return n.network.Addr().String() }

func (n *node) route() transport.Route { return transport.Route{To: n.ID()} }

func person(t testing.TB, seed byte) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// enter starts an agent that listens.
func enter(t testing.TB, seed byte, c tcp.Config) *node {
	t.Helper()
	return enterAs(t, person(t, seed), c)
}

func enterAs(t testing.TB, id *identity.Identity, c tcp.Config) *node {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	log := &journal{}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	network, err := tcp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{network.Endpoint(id), t, network, id, log, time.Now()}
	t.Cleanup(func() { network.Close() })
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// pair starts two agents, of which the first dials the second.
func pair(t testing.TB, c tcp.Config) (alice, bob *node) {
	t.Helper()
	bobs := c
	bobs.Peers = append([]tcp.Peer{{ID: person(t, 1).ID()}}, c.Peers...)
	bob = enter(t, 2, bobs)
	c.Peers = []tcp.Peer{bob.peer(bob.address())}
	return enter(t, 1, c), bob
}

// honest checks that two agents notice nothing of what happens to others.
func honest(t *testing.T, alice, bob *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 20 {
		for _, way := range [][2]*node{{alice, bob}, {bob, alice}} {
			frame := fmt.Appendf(nil, "frame %d", i)
			if err := way[0].Send(ctx, way[1].route(), frame); err != nil {
				t.Fatalf("Send between honest agents: %v", err)
			}
			got, err := way[1].Receive(ctx)
			if err != nil || !bytes.Equal(got.Data, frame) {
				t.Fatalf("an honest agent received %.50q, %v", got.Data, err)
			}
		}
	}
}

// refused waits until something was refused for that reason.
func (n *node) refused(reason peertls.Reason, times uint64) {
	n.t.Helper()
	until(n.t, func() bool { return n.network.Stats().Refused[string(reason)] >= times }, func() string {
		return fmt.Sprintf("%d refused as %s: %v\n%s", times, reason, n.network.Stats().Refused, n.log)
	})
	if got := n.network.Stats().Refused[string(reason)]; got != times {
		n.t.Errorf("%d were refused as %s, want %d", got, reason, times)
	}
}

// logged checks that the log has a line for the reason, and no more than one a second.
func (n *node) logged(reason peertls.Reason) {
	n.t.Helper()
	lines := func() int { return strings.Count(n.log.String(), "reason="+string(reason)) }
	until(n.t, func() bool { return lines() > 0 }, n.log.String) // what is counted is logged after that
	if lines := lines(); lines > 1+int(time.Since(n.since)/time.Second) {
		n.t.Errorf("%d lines in the log within %s:\n%s", lines, time.Since(n.since), n.log)
	}
}

// until polls, since sockets have no fake time.
func until(t testing.TB, done func() bool, what func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what())
		}
	}
}

// dial opens a connection to a node that is closed at the end of the test.
func dial(t testing.TB, to *node) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// closed checks that the other end closes a connection.
func closed(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the connection is still open")
	}
}

// impostor is a peer that proves who it is and then does what the test says.
func impostor(t testing.TB, as byte, to *node) *tls.Conn {
	t.Helper()
	config := peertls.Client(peertls.NewCredential(person(t, as), nil), to.ID(), mesh.Protocol)
	conn := tls.Client(dial(t, to), config)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// enters says hello and waits for the answer.
func enters(t testing.TB, conn net.Conn) {
	t.Helper()
	say(t, conn, greeting())
	head := make([]byte, 5)
	if _, err := io.ReadFull(conn, head); err != nil || head[4] != 1 {
		t.Fatalf("no hello comes: %x, %v", head, err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head)-1)
	if _, err := io.ReadFull(conn, body); err != nil {
		t.Fatal(err)
	}
	say(t, conn, frame(4, string(body[9:17])))
}

func greeting() []byte { return frame(1, "\x01"+strings.Repeat("\x00", 16)) }

func frame(kind byte, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)))
	return append(append(b, kind), payload...)
}

func say(t testing.TB, conn net.Conn, frames ...[]byte) {
	t.Helper()
	if _, err := conn.Write(bytes.Join(frames, nil)); err != nil {
		t.Fatal(err)
	}
}
