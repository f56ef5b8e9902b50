package mesh_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// stage is a [mesh.Kind] whose streams are pipes, for bubbles with a time of their own. Everybody is
// believed to be who they say.
type stage struct {
	t *testing.T

	mu     sync.Mutex
	actors map[string]*actor // by address
	dials  map[string]int    // attempts, by address
	answer func(net.Conn)    // at addresses where no actor is; nil if nobody does
	delay  func() time.Duration
	pipes  []*pipe
}

func newStage(t *testing.T) *stage {
	return &stage{t: t, actors: map[string]*actor{}, dials: map[string]int{}}
}

func (s *stage) Name() string { return "stage" }

func (s *stage) CheckAddress(address string) error {
	if strings.Contains(address, " ") {
		return errors.New("it has a space")
	}
	return nil
}

func (s *stage) Serve(net.Listener, *mesh.Network) {}

// Dial implements [mesh.Kind]. An address where nobody is refuses.
func (s *stage) Dial(ctx context.Context, self *peertls.Credential, peer mesh.Peer) (mesh.Stream, error) {
	s.mu.Lock()
	s.dials[peer.Address]++
	to, delay, answer := s.actors[peer.Address], s.delay, s.answer
	s.mu.Unlock()
	if delay != nil {
		time.Sleep(delay())
	}
	if to == nil && answer != nil {
		here, there := s.pipe()
		go answer(there)
		return mesh.Stream{Conn: here, Self: self.ID(), Peer: peer.ID}, nil
	}
	if to == nil || to.network.Credential(peer.ID) == nil {
		return mesh.Stream{}, errors.New("nobody is there")
	}
	here, there := s.pipe()
	me, other := self.Identity(), to.network.Credential(peer.ID).Identity()
	go to.network.Accept(mesh.Stream{Conn: there, Self: peer.ID, Peer: self.ID(), Key: me.PublicKey(), Statement: me.Statement()})
	return mesh.Stream{Conn: here, Self: self.ID(), Peer: peer.ID, Key: other.PublicKey(), Statement: other.Statement()}, nil
}

// pipe is one end of a connection that a test can cut.
type pipe struct {
	net.Conn
	wrote int // bytes
}

func (s *stage) pipe() (here, there *pipe) {
	a, b := net.Pipe()
	here, there = &pipe{Conn: a}, &pipe{Conn: b}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pipes = append(s.pipes, here, there)
	return here, there
}

func (p *pipe) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	p.wrote += n
	return n, err
}

// cut breaks all connections.
func (s *stage) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pipes {
		p.Close()
	}
	s.pipes = nil
}

func (s *stage) attempts(address string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials[address]
}

// actor is an agent with a network of its own.
type actor struct {
	*mesh.Endpoint
	t       *testing.T
	network *mesh.Network
	id      identity.ID
	log     *journal
}

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

// cast returns an agent that is not started. It is found at the address that is its name.
func (s *stage) cast(name string, c mesh.Config) *actor {
	s.t.Helper()
	log := &journal{}
	c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := mesh.New(c, s)
	if err != nil {
		s.t.Fatal(err)
	}
	a := &actor{n.Endpoint(person(s.t, name)), s.t, n, person(s.t, name).ID(), log}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actors[name] = a
	return a
}

func person(t *testing.T, name string) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(append([]byte(name), make([]byte, 32-len(name))...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func peer(t *testing.T, name string, dialled bool) mesh.Peer {
	p := mesh.Peer{Name: name, ID: person(t, name).ID()}
	if dialled {
		p.Address = name
	}
	return p
}

func (a *actor) start() *actor {
	a.t.Helper()
	if err := a.Start(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { a.network.Close() })
	return a
}

// duo starts two agents, of which alice dials bob.
func duo(t *testing.T, c mesh.Config) (s *stage, alice, bob *actor) {
	s = newStage(t)
	bobs := c
	bobs.Peers = []mesh.Peer{peer(t, "alice", false)}
	bob = s.cast("bob", bobs).start()
	c.Peers = []mesh.Peer{peer(t, "bob", true)}
	return s, s.cast("alice", c).start(), bob
}

func (a *actor) route() transport.Route { return transport.Route{To: a.id} }

func (a *actor) mustSend(to transport.Route, frame string) {
	a.t.Helper()
	if err := a.Send(a.t.Context(), to, []byte(frame)); err != nil {
		a.t.Fatalf("Send: %v", err)
	}
}

func (a *actor) next() string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Hour)
	defer cancel()
	f, err := a.Receive(ctx)
	if err != nil {
		a.t.Fatalf("Receive: %v", err)
	}
	return string(f.Data)
}

func (a *actor) expect(frames ...string) {
	a.t.Helper()
	for _, want := range frames {
		if got := a.next(); got != want {
			a.t.Fatalf("received %.100q, want %.100q", got, want)
		}
	}
}

func (a *actor) expectNothing() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Second)
	defer cancel()
	if f, err := a.Receive(ctx); err == nil {
		a.t.Fatalf("received %.100q, want nothing", f.Data)
	}
}

func (a *actor) refused(word peertls.Reason) uint64 { return a.network.Stats().Refused[string(word)] }

// lines returns how often the log has the text.
func (a *actor) lines(text string) int { return strings.Count(a.log.String(), text) }

// puppet is a peer that does what the test says: the format is written here a second time, by hand.
type puppet struct {
	net.Conn
	t     *testing.T
	ended chan struct{} // closed when the agent is done with the connection
}

// call connects a puppet, who says that it is the agent of that name, with a.
func (s *stage) call(a *actor, name string) *puppet {
	here, there := s.pipe()
	p := &puppet{here, s.t, make(chan struct{})}
	go func() {
		defer close(p.ended)
		a.network.Accept(mesh.Stream{Conn: there, Self: a.id, Peer: person(s.t, name).ID()})
	}()
	s.t.Cleanup(func() { here.Close() }) // the network waits for the other end
	return p
}

const (
	data byte = iota
	hello
	subscribe
	unsubscribe
	ack
	ping
	pong
	bye
)

func frame(kind byte, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)))
	return append(append(b, kind), payload...)
}

func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

func greeting(link, change uint64, patterns ...string) []byte {
	payload := "\x01" + number(link) + number(change)
	for _, p := range patterns {
		payload += string(binary.BigEndian.AppendUint16(nil, uint16(len(p)))) + p
	}
	return frame(hello, payload)
}

func (p *puppet) say(frames ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(bytes.Join(frames, nil)); err != nil {
		p.t.Fatalf("the agent reads no more: %v", err)
	}
}

// hear returns the next frame that is neither ping nor pong.
func (p *puppet) hear() (kind byte, payload string) {
	p.t.Helper()
	for {
		var head [5]byte
		if _, err := io.ReadFull(p, head[:]); err != nil {
			p.t.Fatalf("no frame comes: %v", err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(p, body); err != nil {
			p.t.Fatalf("half a frame comes: %v", err)
		}
		if head[4] != ping && head[4] != pong {
			return head[4], string(body)
		}
	}
}

// enter says hello and hears the answer.
func (p *puppet) enter(patterns ...string) {
	p.t.Helper()
	p.say(greeting(0, 0, patterns...))
	kind, payload := p.hear()
	if kind != hello {
		p.t.Fatalf("the answer to a hello is of type %d", kind)
	}
	p.say(frame(ack, payload[9:17]))
}

// expectEnd waits until the agent has ended the connection, and discards what it still says.
func (p *puppet) expectEnd(within time.Duration) {
	p.t.Helper()
	go io.Copy(io.Discard, p)
	select {
	case <-p.ended:
	case <-time.After(within):
		p.t.Errorf("the connection is still open after %s", within)
	}
}

func pattern(text string) message.Pattern { return message.MustPattern(text) }

func topic(text string) transport.Route {
	return transport.Route{Topics: []message.Topic{message.MustTopic(text)}}
}

func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}
