package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// networkName is what the suite's messages are signed for.
const networkName = "test"

// player is an actor that signs what it sends, takes in what verifies, and writes it down.
type player struct {
	*actor
	signer   *message.Signer
	verifier *message.Verifier
	news     chan struct{} // holds a token after each arrival; for one who waits

	mu      sync.Mutex
	heard   map[identity.ID][]int // numbers of the messages of each sender, as they arrived
	latest  map[identity.ID]int   // the highest of them
	refused map[message.Reason]int
}

// play returns a player whose transport is started and who listens.
func (c *cast) play(patterns ...string) *player {
	c.t.Helper()
	return c.listen(c.hire(), patterns...)
}

// listen makes a player of an actor that was not started yet.
func (c *cast) listen(a *actor, patterns ...string) *player {
	c.t.Helper()
	p := &player{
		actor: a, signer: c.signer(a), verifier: c.verifier(a), news: make(chan struct{}, 1),
		heard: map[identity.ID][]int{}, latest: map[identity.ID]int{}, refused: map[message.Reason]int{},
	}
	for _, pattern := range patterns {
		if err := p.verifier.Subscribe(message.MustPattern(pattern)); err != nil {
			c.t.Fatal(err)
		}
	}
	a.start(patterns...)
	ctx, cancel := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	c.t.Cleanup(func() { cancel(); awaitAll(c.t, &listening, "Receive whose context ended") })
	listening.Go(func() { p.run(ctx) })
	return p
}

func (c *cast) signer(a *actor) *message.Signer {
	c.t.Helper()
	s, err := message.NewSigner(message.SignerConfig{Identity: a.id, Network: networkName})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cast) verifier(a *actor) *message.Verifier {
	c.t.Helper()
	v, err := message.NewVerifier(message.VerifierConfig{Self: a.id.ID(), Network: networkName, Keys: c.keys})
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func (p *player) run(ctx context.Context) {
	for {
		m, err := transport.ReceiveVerified(ctx, p.Transport, p.verifier, p.drop)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, transport.ErrClosed) {
				p.t.Errorf("Receive: %v", err)
			}
			return
		}
		p.note(m)
	}
}

func (p *player) drop(_ context.Context, r *message.Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused[r.Reason]++
}

func (p *player) note(m *message.Message) {
	var n int
	if _, err := fmt.Sscanf(string(m.Body()), "%d", &n); err != nil {
		p.t.Errorf("message from %s: %q is not what was sent", m.Sender().Short(), brief(m.Body()))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[m.Sender()] = append(p.heard[m.Sender()], n)
	p.latest[m.Sender()] = max(p.latest[m.Sender()], n)
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// heardFrom returns the numbers of the sender's messages from first on, as they arrived.
func (p *player) heardFrom(sender *player, first int) []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var later []int
	for _, n := range p.heard[sender.id.ID()] {
		if n >= first {
			later = append(later, n)
		}
	}
	return later
}

// latestFrom returns the highest number of the sender's messages, -1 if there is none.
func (p *player) latestFrom(sender *player) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, any := p.latest[sender.id.ID()]; any {
		return n
	}
	return -1
}

// refusals returns how many frames were refused, and how many of these honest traffic cannot explain. It
// explains replays, and messages that waited for an agent while it was replaced by a new one.
func (p *player) refusals() (all, strange int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for reason, n := range p.refused {
		all += n
		if reason != message.ErrReplayed && reason != message.ErrStaleSession {
			strange += n
		}
	}
	return all, strange
}

// stream is the run of numbered messages from one player to another, directly or by a topic.
type stream struct {
	from, to *player
	topic    string // "" = direct
	size     int    // bytes of a body, at least
	next     int
	refused  map[int]bool // what Send did not send
}

func newStream(from, to *player) *stream {
	return &stream{from: from, to: to, refused: map[int]bool{}}
}

// send sends the next message, and returns Send's error if that is one of those that a transport in
// trouble may give.
func (s *stream) send() error {
	ctx, cancel := s.from.soon()
	defer cancel()
	m := s.sign(ctx)
	err := s.from.Send(ctx, transport.RouteOf(m), m.Raw())
	if err != nil {
		s.refused[s.next] = true
		s.from.checkSendError(err, transport.RouteOf(m))
		if !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrQueueFull) {
			s.from.t.Errorf("Send: %v, want ErrUnreachable or ErrQueueFull", err)
		}
	}
	s.next++
	return err
}

func (s *stream) sign(ctx context.Context) *message.Message {
	draft := message.Draft{Body: fmt.Appendf(nil, "%d %*s", s.next, s.size, "")}
	if s.topic == "" {
		draft.To = s.to.id.ID()
	} else {
		draft.Topics = []message.Topic{message.MustTopic(s.topic)}
	}
	m, err := s.from.signer.Sign(ctx, draft)
	if err != nil {
		s.from.t.Fatalf("Sign: %v", err)
	}
	return m
}

// signNext signs the next message without sending it.
func (s *stream) signNext() string {
	s.from.t.Helper()
	raw := s.sign(s.from.t.Context()).Raw()
	s.next++
	return string(raw)
}

// through sends until a message arrives.
func (s *stream) through() {
	s.from.t.Helper()
	until(s.from.t, "a message arrives over a path that is sound", func() bool {
		n := s.next
		return s.send() == nil && s.arrives(n)
	})
}

// arrives reports whether message n arrives soon; on a path in trouble it may be lost.
func (s *stream) arrives(n int) bool {
	for range 50 {
		if len(s.to.heardFrom(s.from, n)) > 0 {
			return true
		}
		pause()
	}
	return false
}

// unreachable sends until Send says that the recipient cannot be reached.
func (s *stream) unreachable() {
	s.from.t.Helper()
	until(s.from.t, "Send to an agent that is away returns ErrUnreachable", func() bool {
		if errors.Is(s.send(), transport.ErrUnreachable) {
			return true
		}
		time.Sleep(knock)
		return false
	})
}

// pour sends n messages, all of which have to arrive.
func (s *stream) pour(n int) {
	s.from.t.Helper()
	first := s.next
	for range n {
		if err := s.send(); err != nil {
			s.from.t.Fatalf("Send over a path that is sound: %v", err)
		}
	}
	until(s.from.t, fmt.Sprintf("all of %d messages arrive over a path that is sound", n), func() bool {
		return len(s.to.heardFrom(s.from, first)) >= n
	})
}

// audit checks what the recipient heard: each message once, in order if that is kept, none that Send said
// it did not send, and no refusal but of replays.
func (s *stream) audit(ordered bool) {
	s.from.t.Helper()
	heard := s.to.heardFrom(s.from, 0)
	last, seen := -1, map[int]bool{}
	for _, n := range heard {
		switch {
		case seen[n]:
			s.from.t.Errorf("message %d was delivered twice", n)
		case s.refused[n]:
			s.from.t.Errorf("message %d arrived though Send returned an error", n)
		case ordered && n < last:
			s.from.t.Errorf("message %d arrived after message %d", n, last)
		}
		last, seen[n] = n, true
	}
	if _, strange := s.to.refusals(); strange > 0 {
		s.from.t.Errorf("%d frames were refused that were no replays: the transport changed or misled them", strange)
	}
}
