package websocket_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport/websocket"
)

func TestChallengesOfStrangersAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, word string
		code       coder.StatusCode
		attack     func(s *scene, i *intruder)
	}{
		{"a stranger", "unknown_peer", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			stranger := newAgent(s.t)
			i.message(websocket.Greeting(stranger.ID(), stranger, s.alice.ID(), s.addr()))
		}},
		{"a peer's ID with another key", "wrong_key", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.bob.ID(), s.mallory, s.alice.ID(), s.addr()))
		}},
		{"a peer's ID and key without the private one", "challenge", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.bob.ID(), s.bob, s.alice.ID(), s.addr()))
			i.message(websocket.Answer(i.receive(), s.mallory))
		}},
		{"a call for another agent", "unknown_agent", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.mallory.ID(), s.mallory, s.bob.ID(), s.addr()))
		}},
		{"another host", "host", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.mallory.ID(), s.mallory, s.alice.ID(), "agents.example.org"))
		}},
		{"garbage", "challenge", coder.StatusPolicyViolation, func(s *scene, i *intruder) { i.message([]byte("garbage")) }},
		{"garbage for a proof", "challenge", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.mallory.ID(), s.mallory, s.alice.ID(), s.addr()))
			i.message([]byte("garbage"))
		}},
		{"the server's own proof", "challenge", coder.StatusPolicyViolation, func(s *scene, i *intruder) {
			i.message(websocket.Greeting(s.mallory.ID(), s.mallory, s.alice.ID(), s.addr()))
			i.message(i.receive())
		}},
		{"a text message", "text_message", coder.StatusUnsupportedData, func(s *scene, i *intruder) {
			i.write(wsFrame(fin|opText, websocket.Greeting(s.mallory.ID(), s.mallory, s.alice.ID(), s.addr())))
		}},
		{"a huge greeting", "frame_too_large", coder.StatusMessageTooBig, func(s *scene, i *intruder) { i.message(make([]byte, 16<<10)) }},
		{"a violation of the protocol", "protocol", coder.StatusProtocolError, func(s *scene, i *intruder) { i.write(wsFrame(fin|0x3, nil)) }},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := newScene(t, websocket.Challenge, nil)
			s.refuses(c.word, func() {
				i := s.intrude(s.mallory)
				c.attack(s, i)
				i.endsWith(c.code)
			})
		})
	}
}

// receive returns the next message.
func (i *intruder) receive() []byte {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, data, err := i.ws.Read(ctx)
	if err != nil {
		i.t.Fatal(err)
	}
	return data
}

// middle is somebody between a client and alice: a relay that sees and may change all messages.
type middle struct {
	s      *scene
	alter  func(n int, data []byte) []byte // the client's n-th message; nil leaves all as they are
	host   string                          // the header Host towards alice; "" is alice's own address
	server *httptest.Server

	mu       sync.Mutex
	from, to [][]byte // what came from the client, and what went to it
}

func (s *scene) newMiddle() *middle {
	m := &middle{s: s}
	m.server = httptest.NewServer(m)
	s.t.Cleanup(m.server.Close)
	return m
}

func (m *middle) url() string { return "ws" + strings.TrimPrefix(m.server.URL, "http") }

func (m *middle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	client, err := coder.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer client.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	target := m.s.url() + "/converge?" + url.Values{"agent": {m.s.alice.ID().String()}}.Encode()
	server, _, err := coder.Dial(ctx, target, &coder.DialOptions{Host: m.host})
	if err != nil {
		return
	}
	defer server.CloseNow()
	var copying sync.WaitGroup
	copying.Go(func() { defer cancel(); m.copy(ctx, client, server, &m.to, nil) })
	m.copy(ctx, server, client, &m.from, m.alter)
	cancel()
	copying.Wait()
}

func (m *middle) copy(ctx context.Context, to, from *coder.Conn, seen *[][]byte, alter func(int, []byte) []byte) {
	for n := 0; ; n++ {
		kind, data, err := from.Read(ctx)
		if err != nil {
			to.Close(coder.StatusPolicyViolation, "")
			return
		}
		if alter != nil {
			data = alter(n, data)
		}
		m.mu.Lock()
		*seen = append(*seen, bytes.Clone(data))
		m.mu.Unlock()
		if to.Write(ctx, kind, data) != nil {
			return
		}
	}
}

// client starts an agent that dials a peer at an address, and returns its network.
func (s *scene) client(me *identity.Identity, peer identity.ID, address string) *websocket.Network {
	s.t.Helper()
	n, _ := s.start(me, websocket.Config{
		Logger: slog.New(slog.DiscardHandler), MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Peers: []websocket.Peer{{ID: peer, Address: address}},
	})
	return n
}

// carol returns an agent that alice lets in.
func (s *scene) carol() *identity.Identity {
	s.t.Helper()
	carol := newAgent(s.t)
	if err := s.network.AddPeer(websocket.Peer{Name: "carol", ID: carol.ID()}); err != nil {
		s.t.Fatal(err)
	}
	return carol
}

// TestChallengeRelayedToAnotherServerIsRefused is the attack of mallory, a member with a server of her own:
// carol connects with her, and she would like to be carol at alice's.
func TestChallengeRelayedToAnotherServerIsRefused(t *testing.T) {
	t.Run("unchanged", func(t *testing.T) {
		s := newScene(t, websocket.Challenge, nil)
		m := s.newMiddle()
		m.host = m.server.Listener.Addr().String()
		s.refuses("unknown_agent", func() { s.client(s.carol(), s.mallory.ID(), m.url()) })
		if s.network.Stats().Opened != 1 {
			t.Error("somebody got in")
		}
	})
	t.Run("with another name in the greeting", func(t *testing.T) {
		s := newScene(t, websocket.Challenge, nil)
		m := s.newMiddle()
		m.host = m.server.Listener.Addr().String()
		m.alter = func(n int, data []byte) []byte {
			if n == 0 {
				return websocket.GreetingTo(data, s.alice.ID())
			}
			return data
		}
		carols := s.client(s.carol(), s.mallory.ID(), m.url())
		s.until("carol refuses alice's proof", func() bool { return carols.Stats().Refused["challenge"] > 0 })
		if s.network.Stats().Opened != 1 || carols.Stats().Opened != 0 {
			t.Error("somebody got in")
		}
		s.honest()
	})
}

// TestRelayUnderAnotherNameIsRefused has carol dial alice at the address of somebody else, who passes all on.
func TestRelayUnderAnotherNameIsRefused(t *testing.T) {
	t.Run("that the relay does not hide", func(t *testing.T) {
		s := newScene(t, websocket.Challenge, nil)
		s.refuses("host", func() { s.client(s.carol(), s.alice.ID(), s.newMiddle().url()) })
	})
	t.Run("that the relay hides from one who does not say her names", func(t *testing.T) {
		s := newScene(t, websocket.Challenge, nil)
		m := s.newMiddle()
		m.host = m.server.Listener.Addr().String()
		carols := s.client(s.carol(), s.alice.ID(), m.url())
		s.until("that looks like an ordinary proxy", func() bool { return carols.Connected(s.alice.ID()) })
	})
	t.Run("that the relay hides from one who says her names", func(t *testing.T) {
		s := newScene(t, websocket.Challenge, func(c *websocket.Config) {
			c.Hosts = []string{"agents.example.org"}
			c.Listen = freeAddress(t)
			c.Hosts = append(c.Hosts, c.Listen)
		})
		m := s.newMiddle()
		m.host = m.server.Listener.Addr().String()
		s.refuses("host", func() { s.client(s.carol(), s.alice.ID(), m.url()) })
	})
}

// TestReplayedChallengeIsRefused has everything recorded of a connection that carol made.
func TestReplayedChallengeIsRefused(t *testing.T) {
	s := newScene(t, websocket.Challenge, nil)
	m := s.newMiddle()
	m.host = m.server.Listener.Addr().String()
	carol := s.carol()
	carols := s.client(carol, s.alice.ID(), m.url())
	s.until("carol is connected", func() bool { return carols.Connected(s.alice.ID()) })
	carols.Close()
	m.mu.Lock()
	greeting, proof, serversProof := m.from[0], m.from[1], m.to[0]
	m.mu.Unlock()

	t.Run("to the same server", func(t *testing.T) {
		s.refuses("challenge", func() {
			i, err := s.tryToIntrude(carol, http.Header{"Host": {m.host}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			i.message(websocket.Greeting(carol.ID(), carol, s.alice.ID(), s.addr()))
			i.receive()
			i.message(proof)
			i.endsWith(coder.StatusPolicyViolation)
		})
	})
	t.Run("as a whole", func(t *testing.T) {
		opened := s.network.Stats().Opened
		again := &middle{s: s, host: m.host, alter: func(n int, data []byte) []byte { return [][]byte{greeting, proof}[min(n, 1)] }}
		server := httptest.NewServer(again)
		t.Cleanup(server.Close)
		s.refuses("challenge", func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ws, _, err := coder.Dial(ctx, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			for range 2 {
				ws.Write(ctx, coder.MessageBinary, []byte("what is replaced"))
			}
			ws.Read(ctx)
			ws.Read(ctx)
		})
		if s.network.Stats().Opened != opened {
			t.Error("the replay got in")
		}
	})
	t.Run("to the client", func(t *testing.T) {
		impostor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ws, err := coder.Accept(w, r, nil); err == nil {
				defer ws.CloseNow()
				ws.Read(r.Context())
				ws.Write(r.Context(), coder.MessageBinary, serversProof)
				ws.Read(r.Context())
			}
		}))
		t.Cleanup(impostor.Close)
		again := s.client(carol, s.alice.ID(), "ws"+strings.TrimPrefix(impostor.URL, "http"))
		s.until("carol refuses the old proof", func() bool { return again.Stats().Refused["challenge"] > 0 })
		if again.Stats().Opened != 0 {
			t.Error("the impostor was believed")
		}
	})
}
