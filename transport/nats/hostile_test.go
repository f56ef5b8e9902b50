package nats_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// speaker is an agent that signs what it sends and verifies what it gets.
type speaker struct {
	*agent
	signer   *message.Signer
	verifier *message.Verifier

	mu      sync.Mutex
	refused map[message.Reason]int
}

func (a *agent) speaks(keys *identity.Registry, patterns ...string) *speaker {
	a.t.Helper()
	s := &speaker{agent: a, refused: map[message.Reason]int{}}
	if err := keys.Register(a.id.ID(), a.id.PublicKey()); err != nil {
		a.t.Fatal(err)
	}
	var err error
	if s.signer, err = message.NewSigner(message.SignerConfig{Identity: a.id, Network: "test"}); err != nil {
		a.t.Fatal(err)
	}
	if s.verifier, err = message.NewVerifier(message.VerifierConfig{Self: a.id.ID(), Network: "test", Keys: keys}); err != nil {
		a.t.Fatal(err)
	}
	for _, p := range patterns {
		if err := s.verifier.Subscribe(message.MustPattern(p)); err != nil {
			a.t.Fatal(err)
		}
	}
	return s
}

func (s *speaker) sign(d message.Draft) *message.Message {
	s.t.Helper()
	m, err := s.signer.Sign(s.t.Context(), d)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *speaker) tell(to *speaker, body string) {
	s.t.Helper()
	m := s.sign(message.Draft{To: to.id.ID(), Body: []byte(body)})
	s.send(transport.RouteOf(m), string(m.Raw()))
}

func (s *speaker) announce(topic, body string) {
	s.t.Helper()
	m := s.sign(message.Draft{Topics: []message.Topic{message.MustTopic(topic)}, Body: []byte(body)})
	s.send(transport.RouteOf(m), string(m.Raw()))
}

// hears returns the next message that verifies.
func (s *speaker) hears(want string) {
	s.t.Helper()
	ctx, cancel := s.soon()
	defer cancel()
	m, err := transport.ReceiveVerified(ctx, s.Endpoint, s.verifier, func(_ context.Context, r *message.Refusal) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused[r.Reason]++
	})
	if err != nil {
		s.t.Fatalf("Receive: %v", err)
	}
	if string(m.Body()) != want {
		s.t.Fatalf("heard %.100q, want %.100q", m.Body(), want)
	}
}

// stage is two honest agents and a stranger on one broker.
func stage(t *testing.T, c nats.Config) (n *nats.Network, alice, bob *speaker, mallory *client.Conn) {
	t.Helper()
	n = newNetwork(t, listening(c))
	keys := identity.NewRegistry(0)
	alice, bob = join(t, n).speaks(keys), join(t, n, "t").speaks(keys, "t")
	return n, alice, bob, stranger(t, n)
}

const prefix = "converge.test."

// TestHostileFramesChangeNothingForHonestPeers has a stranger publish all sorts of rubbish between honest
// messages.
func TestHostileFramesChangeNothingForHonestPeers(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			c.MaxFrame = 10_000
			n, alice, bob, mallory := stage(t, c)
			agent, topic, all := prefix+"agent."+bob.id.ID().String(), prefix+"topic.t", prefix+"all"
			label := func(topics, frame string) client.Header {
				return client.Header{"Converge-Topics": {topics}, "Converge-Frame": {frame}}
			}
			random := make([]byte, 1000)
			rand.Read(random)
			for i, m := range []*client.Msg{
				{Subject: agent},
				{Subject: agent, Data: random},
				{Subject: agent, Data: make([]byte, 10_001)},
				{Subject: agent, Data: random, Header: client.Header{"Status": {"503"}, "Converge-Topics": {"x", "y"}}},
				{Subject: agent, Data: random, Reply: prefix + "agent." + alice.id.ID().String()},
				{Subject: agent, Data: random, Reply: "$JS.API.STREAM.DELETE." + n.Stream()},
				{Subject: agent, Data: random, Reply: "$JS.ACK.x.y.1.2.3.4.5"},
				{Subject: all, Data: random},
				{Subject: all},
				{Subject: topic, Data: random},
				{Subject: topic, Data: random, Header: label("other", "f")},
				{Subject: topic, Data: random, Header: label("t,t", "f")},
				{Subject: topic, Data: random, Header: label("t"+strings.Repeat(",u", 20), "f")},
				{Subject: topic, Data: random, Header: label("t", strings.Repeat("f", 500))},
				{Subject: topic, Data: random, Header: label("t", "f")},
				{Subject: topic, Data: random, Header: client.Header{"Converge-Topics": {"t"}, "Converge-Frame": {"f"}, "Converge-From": {bob.id.ID().String()}}},
				{Subject: prefix + "topic.t.u.v", Data: random},
				{Subject: prefix + "agent.nobody", Data: random},
			} {
				if err := mallory.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
				if err := mallory.Flush(); err != nil {
					t.Fatal(err)
				}
				alice.tell(bob, fmt.Sprint("direct ", i))
				alice.announce("t", fmt.Sprint("topic ", i))
				bob.hears(fmt.Sprint("direct ", i))
				bob.hears(fmt.Sprint("topic ", i))
			}
			refused := n.Stats().Refused
			if refused["malformed"] == 0 || refused["frame_too_large"] == 0 {
				t.Errorf("what was refused is not counted: %v", refused)
			}
			if bob.refused[message.ErrMalformed] == 0 || len(bob.refused) != 1 {
				t.Errorf("refusals: %v, want malformed ones only", bob.refused)
			}
		})
	}
}

// TestForgedCopiesSuppressNothing: a stranger that sees a frame's name cannot have the next one dropped by
// using its name.
func TestForgedCopiesSuppressNothing(t *testing.T) {
	_, alice, bob, mallory := stage(t, nats.Config{})
	seen := make(chan *client.Msg, 100)
	if _, err := mallory.ChanSubscribe(prefix+"topic.>", seen); err != nil {
		t.Fatal(err)
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		alice.announce("t", fmt.Sprint(i))
		m := <-seen
		for _, data := range [][]byte{[]byte("forged"), m.Data} {
			if err := mallory.PublishMsg(&client.Msg{Subject: m.Subject, Header: m.Header, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		bob.hears(fmt.Sprint(i))
	}
}

// TestReplayToOtherRecipientIsDropped: a broker, or whoever may publish there, sends what it saw to another
// agent, and to the same one again.
func TestReplayToOtherRecipientIsDropped(t *testing.T) {
	n, alice, bob, mallory := stage(t, nats.Config{})
	keys := identity.NewRegistry(0)
	carol := join(t, n).speaks(keys)
	keys.Register(alice.id.ID(), alice.id.PublicKey())
	seen := make(chan *client.Msg, 100)
	if _, err := mallory.ChanSubscribe(prefix+"agent.*", seen); err != nil {
		t.Fatal(err)
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	alice.tell(bob, "for bob")
	bob.hears("for bob")
	captured := <-seen
	for len(captured.Data) == 0 { // alice asked whether bob is there
		captured = <-seen
	}
	for _, to := range []*speaker{bob, carol} {
		if err := mallory.Publish(prefix+"agent."+to.id.ID().String(), captured.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	alice.tell(bob, "next")
	alice.tell(carol, "next")
	bob.hears("next")
	carol.hears("next")
	if bob.refused[message.ErrReplayed] != 1 || carol.refused[message.ErrMisaddressed] != 1 {
		t.Errorf("bob refused %v, want one replay; carol %v, want one misaddressed frame", bob.refused, carol.refused)
	}
}

// TestForgedNoticesDoNotStopSenders: a stranger that can read everything says that nobody listens, and that
// frames were taken in.
func TestForgedNoticesDoNotStopSenders(t *testing.T) {
	_, alice, bob, mallory := stage(t, nats.Config{})
	notices := make(chan string, 10_000)
	if _, err := mallory.Subscribe(prefix+"agent.*", func(m *client.Msg) {
		for _, reply := range []string{m.Reply, m.Reply + ".1", m.Reply + ".99999999", m.Reply + ".x"} {
			mallory.PublishMsg(&client.Msg{Subject: reply, Header: client.Header{"Status": {"503"}}})
			mallory.Publish(reply, []byte("taken in"))
		}
		notices <- m.Reply
	}); err != nil {
		t.Fatal(err)
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		m := alice.sign(message.Draft{To: bob.id.ID(), Body: fmt.Append(nil, i)})
		until(t, "a frame is sent in spite of forged notices", func() bool { return alice.try(bob.route(), string(m.Raw())) == nil })
		bob.hears(fmt.Sprint(i))
	}
	if len(notices) == 0 {
		t.Error("the stranger saw nothing to forge")
	}
}

// TestRubbishAtThePortsOfTheServer speaks no NATS to the embedded server.
func TestRubbishAtThePortsOfTheServer(t *testing.T) {
	n, alice, bob, _ := stage(t, nats.Config{})
	for i, rubbish := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		strings.Repeat("x", 100_000),
		"CONNECT {\r\n",
		"CONNECT {}\r\nPUB " + strings.Repeat("a", 10_000) + " 1\r\nx\r\n",
		"CONNECT {}\r\nPUB a 99999999999999999999\r\n",
		"CONNECT {}\r\nPUB a 2000000000\r\nx\r\n",
		"CONNECT {}\r\nHPUB a 99 5\r\nNATS/\r\n",
		"CONNECT {}\r\nSUB > 1\r\nMSG a 1 1\r\nx\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"RS+ $G a\r\nINFO {}\r\n",
	} {
		conn, err := net.Dial("tcp", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(conn)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(rubbish))
		alice.tell(bob, fmt.Sprint(i))
		bob.hears(fmt.Sprint(i))
		conn.Close()
	}
	until(t, "the server counts what was not its protocol", func() bool { return n.Stats().Refused["malformed"] >= 5 })
}

// TestAnswersGoToNoticesOnly has a stranger ask for answers elsewhere: the agent publishes nothing there.
func TestAnswersGoToNoticesOnly(t *testing.T) {
	_, alice, bob, mallory := stage(t, nats.Config{})
	answers := make(chan *client.Msg, 100)
	if _, err := mallory.ChanSubscribe("elsewhere.>", answers); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"elsewhere.abcdefghij234567.1", "elsewhere.x", "elsewhere.abcdefghij234567.p1"} {
		for _, data := range []string{"", "frame"} {
			if err := mallory.PublishMsg(&client.Msg{Subject: prefix + "agent." + bob.id.ID().String(), Reply: reply, Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	alice.tell(bob, "honest")
	bob.hears("honest")
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(answers) > 0 {
		t.Errorf("the agent answered at %q", (<-answers).Subject)
	}
}

// TestStrangersFloodTakesNoRoomFromAgents: who says nothing of itself gets an eighth of the room.
func TestStrangersFloodTakesNoRoomFromAgents(t *testing.T) {
	n, alice, bob, mallory := stage(t, nats.Config{Pending: 800})
	for range 5000 {
		for _, subject := range []string{"agent." + bob.id.ID().String(), "all"} {
			if err := mallory.Publish(prefix+subject, []byte("rubbish")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := mallory.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		alice.tell(bob, fmt.Sprint(i))
	}
	for i := range 300 {
		bob.hears(fmt.Sprint(i))
	}
	if dropped := bob.Dropped(); dropped == 0 {
		t.Error("the flood was taken in")
	}
	if n.Stats().Refused["slow_consumer"] == 0 {
		t.Error("the flood is not counted")
	}
}
