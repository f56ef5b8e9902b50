package websocket_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

// patience bounds what should happen soon; only a failing test waits that long.
const patience = time.Minute

// scene is what attacks happen in: alice listens, bob is an honest peer that has a connection with her, and
// mallory is a peer that may attack as one. Afterwards alice has to serve bob as if nothing had been.
type scene struct {
	t                 *testing.T
	proof             websocket.Proof
	alice, bob        *identity.Identity
	mallory           *identity.Identity
	network, bobs     *websocket.Network
	listener, speaker *websocket.Endpoint
	log               *logbook
	said              int
}

// newScene sets a scene. The networks' configuration is that of both honest agents.
func newScene(t *testing.T, proof websocket.Proof, change func(*websocket.Config)) *scene {
	t.Helper()
	s := &scene{t: t, proof: proof, alice: newAgent(t), bob: newAgent(t), mallory: newAgent(t), log: &logbook{}}
	c := websocket.Config{
		Proof: proof, Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Peers: []websocket.Peer{{Name: "bob", ID: s.bob.ID()}, {Name: "mallory", ID: s.mallory.ID()}},
	}
	if change != nil {
		change(&c)
	}
	s.network, s.listener = s.start(s.alice, c)
	c.Listen, c.Proof, c.Logger = "", websocket.Certificate, slog.New(slog.DiscardHandler)
	c.Peers = []websocket.Peer{{Name: "alice", ID: s.alice.ID(), Address: s.url(), Proof: proof}}
	s.bobs, s.speaker = s.start(s.bob, c)
	s.honest()
	return s
}

func newAgent(t testing.TB) *identity.Identity {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// start returns a network with one agent, started.
func (s *scene) start(id *identity.Identity, c websocket.Config) (*websocket.Network, *websocket.Endpoint) {
	s.t.Helper()
	n, err := websocket.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { n.Close() })
	e := n.Endpoint(id)
	if err := e.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return n, e
}

func (s *scene) addr() string { return s.network.Addr().String() }

// url returns alice's URL.
func (s *scene) url() string {
	if s.proof == websocket.Challenge {
		return "ws://" + s.addr()
	}
	return "wss://" + s.addr()
}

// honest has bob say something to alice, and hear something from her.
func (s *scene) honest() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for range 3 {
		s.said++
		text := fmt.Sprintf("honest %d", s.said)
		s.pass(ctx, s.speaker, s.listener, s.alice, text)
		s.pass(ctx, s.listener, s.speaker, s.bob, text)
	}
}

func (s *scene) pass(ctx context.Context, from, to *websocket.Endpoint, id *identity.Identity, text string) {
	s.t.Helper()
	for from.Send(ctx, transport.Route{To: id.ID()}, []byte(text)) != nil {
		if ctx.Err() != nil {
			s.t.Fatalf("%q was not sent", text)
		}
	}
	for {
		frame, err := to.Receive(ctx)
		if err != nil {
			s.t.Fatalf("%q did not arrive: %v", text, err)
		}
		if string(frame.Data) == text { // what mallory sent may be there too
			return
		}
	}
}

// refuses runs an attack, and checks that alice counts it under the word, writes a line about it and not one
// a time, and that bob notices nothing.
func (s *scene) refuses(word string, attack func()) {
	s.t.Helper()
	before, connections := s.network.Stats().Refused[word], s.bobs.Stats().Opened
	attack()
	s.until("Refused["+word+"] goes up", func() bool { return s.network.Stats().Refused[word] > before })
	s.until("there is a line about "+word, func() bool { return strings.Contains(s.log.String(), "reason="+word) })
	s.honest()
	if stats := s.bobs.Stats(); stats.Opened != connections || stats.Closed != 0 {
		s.t.Errorf("the honest peer's connection did not outlive the attack: %+v", stats)
	}
}

func (s *scene) until(what string, met func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %s: %s\n%+v\n%s", patience, what, s.network.Stats(), s.log)
		}
	}
}

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// intruder is a connection of mallory's to alice, of which she can write every byte.
type intruder struct {
	t    *testing.T
	conn net.Conn    // below WebSocket
	ws   *coder.Conn // reads it
}

// intrude upgrades a connection as the agent me, up to where the proof begins.
func (s *scene) intrude(me *identity.Identity) *intruder {
	s.t.Helper()
	i, err := s.tryToIntrude(me, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// tryToIntrude is intrude with a header, and with another configuration of TLS unless that is nil.
func (s *scene) tryToIntrude(me *identity.Identity, header http.Header, config *tls.Config) (*intruder, error) {
	i := &intruder{t: s.t}
	if config == nil {
		config = peertls.Client(peertls.NewCredential(me, nil), s.alice.ID(), "http/1.1")
	}
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && s.proof == websocket.Certificate {
			secure := tls.Client(conn, config)
			if err = secure.HandshakeContext(ctx); err != nil {
				conn.Close()
			}
			conn = secure
		}
		i.conn = conn
		return conn, err
	}
	address := s.url() + "/converge"
	if s.proof == websocket.Challenge {
		address += "?" + url.Values{"agent": {s.alice.ID().String()}}.Encode()
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var err error
	i.ws, _, err = coder.Dial(ctx, address, &coder.DialOptions{
		HTTPHeader: header, HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial, DialTLSContext: dial, DisableKeepAlives: true}},
	})
	if err != nil {
		if i.conn != nil {
			i.conn.Close()
		}
		return nil, err
	}
	s.t.Cleanup(func() { i.ws.CloseNow() })
	return i, nil
}

// join intrudes as a peer that has proved itself, and says hello; its answer may or may not have come yet.
func (s *scene) join(me *identity.Identity) *intruder {
	s.t.Helper()
	i := s.intrude(me)
	if s.proof == websocket.Challenge {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		if err := websocket.ProveClient(ctx, i.ws, me, s.alice.ID(), s.addr()); err != nil {
			s.t.Fatal(err)
		}
	}
	i.hello()
	return i
}

// hello says hello, and that it has heard alice's.
func (i *intruder) hello() {
	i.message(meshFrame(1, append([]byte{1}, make([]byte, 16)...)))
	i.message(meshFrame(4, make([]byte, 8)))
}

// meshFrame returns a frame of the mesh.
func meshFrame(kind byte, payload []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload)+1)), kind), payload...)
}

// Opcodes and bits of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opPing         = 0x9
	fin            = 0x80
	rsv1           = 0x40
)

// wsFrame returns a frame of WebSocket as clients send it, masked with zeros.
func wsFrame(head byte, payload []byte) []byte {
	b := []byte{head}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// write writes bytes beneath WebSocket. That they are not taken is no error: the attack may be over already.
func (i *intruder) write(b []byte) error {
	i.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := i.conn.Write(b)
	return err
}

// message sends a binary message.
func (i *intruder) message(payload []byte) error { return i.write(wsFrame(fin|opBinary, payload)) }

// closed reads until the connection ends, and returns the code that it ends with, -1 if there is none.
func (i *intruder) closed() coder.StatusCode {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		i.ws.SetReadLimit(-1)
		if _, _, err := i.ws.Read(ctx); err != nil {
			if ctx.Err() != nil {
				i.t.Error("the connection does not end")
			}
			return coder.CloseStatus(err)
		}
	}
}

// endsWith checks the code of the close frame.
func (i *intruder) endsWith(want coder.StatusCode) {
	i.t.Helper()
	if got := i.closed(); got != want {
		i.t.Errorf("the connection ended with code %d, want %d", got, want)
	}
}

// inBothModes runs a test once for each proof.
func inBothModes(t *testing.T, test func(t *testing.T, proof websocket.Proof)) {
	t.Run("Certificate", func(t *testing.T) { test(t, websocket.Certificate) })
	t.Run("Challenge", func(t *testing.T) { test(t, websocket.Challenge) })
}
