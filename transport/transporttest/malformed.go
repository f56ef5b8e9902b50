package transporttest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// MalformedConfig configures [Malformed]. The zero value is usable.
type MalformedConfig struct {
	Frames    int // malformed frames in all; 0 means a million
	Attackers int // goroutines that send them; 0 means 4

	// Attack delivers a malformed frame to the victim in whatever way a stranger can; attacker counts
	// from 0 and has one call at a time. Errors are counted: a refused connection is one. Nil: the
	// frame comes from an agent of the network that turned bad, by its Transport.
	Attack func(ctx context.Context, attacker int, frame []byte) error
	// Victim, if set, is told who is attacked once that agent has started.
	Victim func(identity.ID)
}

// MalformedResult is what [Malformed] saw.
type MalformedResult struct {
	Frames, Failed int               // attacks, and those of them that returned an error
	Honest         int               // honest messages, all of which arrived once
	Refused        map[string]uint64 // frames that reached the victim's verification, by reason
	P50, P99       time.Duration     // of the way of an honest message
	Took           time.Duration
}

// String sums up the result in one line.
func (r MalformedResult) String() string {
	return fmt.Sprintf("%d malformed frames in %v, %d of them failed to be sent; %d honest messages arrived once each, p50 %v, p99 %v; refused by verification: %v",
		r.Frames, r.Took.Round(time.Millisecond), r.Failed, r.Honest, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.Refused)
}

// Malformed has two agents exchange verified messages while malformed frames arrive at one of them. It
// fails t unless every honest message arrives once and in order, and a newcomer is heard at the end.
func Malformed(t *testing.T, f Fabric, c MalformedConfig) MalformedResult {
	t.Helper()
	cast := newCast(t, f)
	alice, bob := cast.play(), cast.play()
	if c.Victim != nil {
		c.Victim(bob.id.ID())
	}
	b := &barrage{cast: cast, victim: bob, total: int64(cmp.Or(c.Frames, 1_000_000)), attack: c.Attack}
	attackers := cmp.Or(c.Attackers, 4)
	if b.attack == nil {
		b.attack = cast.turnBad(attackers, bob)
	}
	began := time.Now()
	honest := []*exchange{{stream: newStream(alice, bob)}, {stream: newStream(bob, alice)}}
	var attacking, talking sync.WaitGroup
	done := make(chan struct{})
	for _, e := range honest {
		talking.Go(func() { e.run(done) })
	}
	for i := range attackers {
		frames := cast.newStencil(alice, bob)
		attacking.Go(func() { b.run(i, frames) })
	}
	attacking.Wait()
	close(done)
	talking.Wait()
	result := b.result(honest)
	result.Took = time.Since(began)
	t.Log(result)
	newStream(cast.play(), bob).through()
	return result
}

// exchange is honest traffic: a message is sent when the one before it has arrived.
type exchange struct {
	*stream
	took []time.Duration
}

func (e *exchange) run(done <-chan struct{}) {
	for !e.from.t.Failed() {
		select {
		case <-done:
			return
		default:
		}
		began, n := time.Now(), e.next
		if err := e.send(); err != nil {
			e.from.t.Errorf("honest message %d was not sent: %v", n, err)
			return
		}
		if !e.to.waitFor(e.from, n) {
			e.from.t.Errorf("honest message %d did not arrive within %v", n, patience)
			return
		}
		e.took = append(e.took, time.Since(began))
	}
}

// waitFor waits until the sender's message n or a later one has arrived, and reports whether it did in time.
func (p *player) waitFor(sender *player, n int) bool {
	late := time.After(patience)
	for p.latestFrom(sender) < n {
		select {
		case <-p.news:
		case <-late:
			return false
		}
	}
	return true
}

// barrage is malformed frames on their way to one agent.
type barrage struct {
	cast         *cast
	victim       *player
	attack       func(ctx context.Context, attacker int, frame []byte) error
	total        int64
	sent, failed atomic.Int64
}

func (b *barrage) run(attacker int, frames *stencil) {
	random := rand.New(rand.NewPCG(uint64(attacker), 0)) // the same frames in each run
	for b.sent.Add(1) <= b.total && !b.cast.t.Failed() {
		ctx, cancel := b.victim.soon()
		if b.attack(ctx, attacker, frames.cut(random)) != nil {
			b.failed.Add(1)
		}
		cancel()
	}
}

func (b *barrage) result(honest []*exchange) MalformedResult {
	b.cast.t.Helper()
	r := MalformedResult{Frames: int(min(b.sent.Load(), b.total)), Failed: int(b.failed.Load()), Refused: b.victim.verifier.Refused()}
	var took []time.Duration
	for _, e := range honest {
		heard := e.to.heardFrom(e.from, 0)
		if len(heard) != e.next || !slices.IsSorted(heard) || len(slices.Compact(heard)) != e.next {
			b.cast.t.Errorf("%d honest messages were sent, and %d arrived, or not in order", e.next, len(heard))
		}
		r.Honest += e.next
		took = append(took, e.took...)
	}
	r.P50, r.P99 = percentile(took, 50), percentile(took, 99)
	return r
}

// percentile returns the value that so many percent do not exceed.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

// turnBad makes an agent for each attacker that sends by its transport. What verification does not keep up
// with waits, so that a transport that sheds does not shed honest messages because of it.
func (c *cast) turnBad(attackers int, victim *player) func(context.Context, int, []byte) error {
	c.t.Helper()
	var mallories []*actor
	for range attackers {
		mallories = append(mallories, c.enter())
	}
	var sent atomic.Int64
	const ahead = 64
	return func(ctx context.Context, attacker int, frame []byte) error {
		sent.Add(1)
		for waits := 0; waits < 10; waits++ {
			if refused, _ := victim.refusals(); sent.Load() < int64(refused)+ahead {
				break
			}
			pause()
		}
		return mallories[attacker].Send(ctx, victim.direct(), frame)
	}
}

// stencil is honest frames to make malformed ones from.
type stencil struct {
	known   *player // signs for the victim what is never sent as it is
	victim  *player
	honest  [][]byte
	foreign [][]byte // sound, but from a stranger or for another
	cuts    int
}

func (c *cast) newStencil(known, victim *player) *stencil {
	c.t.Helper()
	stranger := &actor{t: c.t, id: newIdentity(c.t)}
	strange := c.signer(stranger)
	s := &stencil{known: known, victim: victim}
	for i := range 16 {
		s.honest = append(s.honest, known.signed(known.signer, victim.id.ID(), i*50))
		s.foreign = append(s.foreign, known.signed(known.signer, stranger.id.ID(), i), known.signed(strange, victim.id.ID(), i))
	}
	return s
}

// signed returns a frame with a body of so many bytes.
func (a *actor) signed(s *message.Signer, to identity.ID, size int) []byte {
	m, err := s.Sign(context.Background(), message.Draft{To: to, Body: make([]byte, size)})
	if err != nil {
		a.t.Errorf("Sign: %v", err)
		return []byte{0}
	}
	return m.Raw()
}

// cut returns a malformed frame, which is the caller's.
func (s *stencil) cut(random *rand.Rand) []byte {
	if s.cuts++; s.cuts%128 == 0 { // old ones are refused for their age
		s.honest[random.IntN(len(s.honest))] = s.known.signed(s.known.signer, s.victim.id.ID(), random.IntN(1000))
	}
	honest := bytes.Clone(s.honest[random.IntN(len(s.honest))])
	switch random.IntN(8) {
	case 0:
		return honest[:random.IntN(len(honest))]
	case 1:
		honest[random.IntN(len(honest))] ^= 1 << random.IntN(8)
		return honest
	case 2:
		return append(honest, noise(random, 1+random.IntN(32))...)
	case 3:
		return bytes.Clone(s.foreign[random.IntN(len(s.foreign))])
	case 4: // a byte string of 2^64-1 bytes, in an array of one
		return []byte{0xd2, 0x81, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case 5: // arrays in arrays
		return bytes.Repeat([]byte{0x81}, 1+random.IntN(4096))
	case 6:
		if random.IntN(1000) == 0 {
			return noise(random, 64<<10)
		}
		return nil
	default:
		return noise(random, 1+random.IntN(256))
	}
}

func noise(random *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}
