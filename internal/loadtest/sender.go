package loadtest

import (
	"context"
	"fmt"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// sender sends in stages: one message at once, which says that it is there, the rest of the warm-up, and
// what is measured. The receiver tells it when the next one begins. What is in front of it slows it down:
// the runtime carries out a turn's decisions before it asks for more.
type sender struct {
	id    *identity.Identity
	to    identity.ID
	clock clock
	fail  context.CancelCauseFunc
	ready chan struct{} // closed when it runs

	next     int           // number of the next message
	stages   []int         // ends of this stage and the next ones
	interval time.Duration // between messages in the last stage; 0 means none
	offset   time.Duration // of the first message, so that senders take turns
	due      time.Duration // of the next message

	bodies    [][]byte // of one turn; a signer copies them
	decisions []converge.Decision
}

func newSender(c Config, index int, id *identity.Identity, to identity.ID, clock clock) *sender {
	s := &sender{id: id, to: to, clock: clock, ready: make(chan struct{}), stages: c.stages(index)}
	for range c.turn() {
		s.bodies = append(s.bodies, make([]byte, c.Size))
	}
	if c.Rate > 0 {
		s.interval = time.Second * time.Duration(c.Senders) / time.Duration(c.Rate)
		s.offset = time.Second * time.Duration(index) / time.Duration(c.Rate)
	}
	return s
}

// OnStart implements [converge.Starter].
func (s *sender) OnStart(context.Context) error {
	close(s.ready)
	return nil
}

// Decide implements [converge.Agent].
func (s *sender) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	if len(t.Failures) > 0 {
		s.fail(fmt.Errorf("%d messages of one turn were not sent: %w", len(t.Failures), t.Failures[0].Err))
		return nil, nil
	}
	if len(t.Messages) > 0 { // only the receiver is known, and it says one thing
		s.stages = s.stages[min(len(t.Messages), len(s.stages)-1):]
		s.due = s.clock.now() + s.offset
	}
	s.decisions = s.decisions[:0]
	pause := s.fill()
	if s.next < s.stages[0] {
		s.decisions = append(s.decisions, converge.Wake{After: pause})
	}
	return s.decisions, nil
}

// fill decides to send what is due, and returns how long it is to what comes after.
func (s *sender) fill() (pause time.Duration) {
	paced := s.interval > 0 && len(s.stages) == 1
	for _, body := range s.bodies[:min(len(s.bodies), s.stages[0]-s.next)] {
		now := s.clock.now()
		if paced && now < s.due {
			return s.due - now
		}
		s.due += s.interval
		putHeader(body, now, s.next)
		s.next++
		s.decisions = append(s.decisions, converge.SendMessage{Draft: message.Draft{To: s.to, Body: body, ContentType: "application/octet-stream"}})
	}
	return 0
}
