package transporttest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/transport"
)

// memoryTests measure the heap, which is that of all tests that run.
var memoryTests = []test{{"ReceiverThatStopsHoldsUpItsSendersOnly", testPressure}}

var pressureTests = []test{
	{"CloseOfAFullReceiverFreesItsSenders", testCloseOfFullReceiver},
	{"CloseFreesSendersToAFullReceiver", testCloseOfSenderToFullReceiver},
}

var sizeTests = []test{{"LargestFramePassesAndLargerIsRefused", testSizes}}

const (
	pressureFrame  = 16 << 10  // bytes of a frame for a receiver that does not receive
	pressureFrames = 16 << 10  // how many of them no transport may keep: 256 MiB
	pressureHeap   = 128 << 20 // bytes that the heap may grow by meanwhile
)

func (c *cast) overflow() Overflow {
	if p, ok := c.fabric.(Policy); ok {
		return p.WhenReceiverStops()
	}
	return Blocks
}

// pusher sends numbered frames to an agent that does not receive, until it is refused or told to stop.
type pusher struct {
	from     *actor
	accepted atomic.Int64
	stop     atomic.Bool
	running  sync.WaitGroup
	ended    chan struct{}
	err      error // after ended: why it stopped; nil if it was told to, or has sent all that it had
}

func push(from *actor, number byte, to *actor, frames int) *pusher {
	p := &pusher{from: from, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	from.t.Cleanup(func() { cancel(); awaitAll(from.t, &p.running, "Send whose context ended") })
	p.running.Go(func() {
		defer close(p.ended)
		frame := make([]byte, pressureFrame)
		frame[0] = number
		for i := 0; i < frames && !p.stop.Load(); i++ {
			binary.BigEndian.PutUint32(frame[1:], uint32(i))
			if p.err = from.Send(ctx, to.direct(), frame); p.err != nil {
				return
			}
			p.accepted.Add(1)
		}
	})
	return p
}

func (p *pusher) done() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// settled waits until the pushers have ended or are stuck, and reports whether all have ended.
func settled(t *testing.T, pushers []*pusher) bool {
	t.Helper()
	last, still, ended := int64(-1), time.Now(), true
	until(t, "senders to a receiver that does not receive end or wait", func() bool {
		var sum int64
		ended = true
		for _, p := range pushers {
			sum += p.accepted.Load()
			ended = ended && p.done()
		}
		if sum != last {
			last, still = sum, time.Now()
		}
		// Taking a slow sender for a stuck one is no harm: the test then just begins with less.
		return ended || time.Since(still) > 300*time.Millisecond
	})
	return ended
}

func testPressure(t *testing.T, c *cast) {
	alice, bob, carol, dave := c.enter(), c.enter("t"), c.enter("t"), c.enter()
	policy := c.overflow()
	for _, from := range []*actor{alice, dave} {
		from.reaches(bob)
	}
	before := heap()
	var pushers []*pusher
	for i, from := range []*actor{alice, alice, dave} {
		pushers = append(pushers, push(from, byte(i), bob, pressureFrames/3))
	}
	ended := settled(t, pushers)
	if grown := heap() - before; grown > pressureHeap {
		t.Errorf("the heap grew by %d MiB for a receiver that does not receive", grown>>20)
	}
	checkPolicy(t, policy, ended, pushers)
	if t.Failed() {
		return
	}
	carol.mustSend(alice.direct(), "not delayed")
	alice.expect("not delayed")
	alice.mustSend(carol.direct(), "not delayed either")
	carol.expect("not delayed either")
	past := sendPastFull(t, policy, alice, carol)
	for _, p := range pushers {
		p.stop.Store(true)
	}
	bob.drain(policy, pushers, past)
}

// reaches sends until a frame has arrived, so that the path is there: what comes next is about the receiver.
func (a *actor) reaches(to *actor) {
	a.t.Helper()
	n := 0
	until(a.t, "an agent is reached", func() bool {
		n++
		probe := fmt.Sprint("are you there? ", n)
		return a.trySend(a.t.Context(), to.direct(), []byte(probe)) == nil && to.hears(probe)
	})
}

// hears reports whether the frame arrives soon, after others; where two agents dial each other, one connection goes, and
// may take it along.
func (a *actor) hears(frame string) bool {
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
	defer cancel()
	for {
		switch got, err := a.receive(ctx); {
		case err != nil:
			return false
		case string(got) == frame:
			return true
		}
	}
}

func checkPolicy(t *testing.T, policy Overflow, ended bool, pushers []*pusher) {
	t.Helper()
	if policy == Blocks {
		if ended {
			t.Error("senders did not wait for a receiver that does not receive")
		}
		return
	}
	if !ended {
		t.Error("senders wait for a receiver that does not receive, against the policy")
		return
	}
	for _, p := range pushers {
		switch {
		case policy == Sheds && p.err != nil:
			t.Errorf("Send: %v; the receiver's side was to drop", p.err)
		case policy == Refuses && !errors.Is(p.err, transport.ErrQueueFull):
			t.Errorf("Send to a receiver that does not receive: %v, want ErrQueueFull", p.err)
		case policy == Refuses:
			p.from.checkSendError(p.err, transport.Route{To: p.err.(*transport.SendError).Route.To})
		}
	}
}

// pastFull marks the frame of sendPastFull.
const pastFull = 0xff

// sendPastFull sends to the subscribers of a topic, of which one is full and carol is not. It reports
// whether the full one may get the frame nevertheless: it may have found room that smaller ones left.
func sendPastFull(t *testing.T, policy Overflow, from, carol *actor) bool {
	t.Helper()
	enough := errors.New("waited long enough")
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	defer cancel(nil)
	returned := make(chan error, 1)
	frame := make([]byte, pressureFrame)
	frame[0] = pastFull
	go func() { returned <- from.Send(ctx, topics("t"), frame) }()
	if got := carol.next(); len(got) != pressureFrame {
		t.Fatalf("received %s, want the frame for the topic", brief(got))
	}
	if policy == Blocks {
		cancel(enough)
	}
	var err error
	select {
	case err = <-returned:
	case <-time.After(patience):
		t.Fatal("Send to a topic with a full subscriber still blocks")
	}
	switch {
	case err == nil:
		return true
	case policy == Blocks && errors.Is(err, enough), policy == Refuses && errors.Is(err, transport.ErrQueueFull):
		from.checkSendError(err, topics("t"))
	default:
		t.Errorf("Send to a topic with a full subscriber: %v", err)
	}
	return false
}

// lastFrame is the number of the frame that says that a pusher has stopped.
const lastFrame = 1<<32 - 1

// drain receives what the pushers have sent, and checks that it is all that was accepted.
func (a *actor) drain(policy Overflow, pushers []*pusher, past bool) {
	a.t.Helper()
	drained := make(chan struct{})
	var ending sync.WaitGroup
	a.t.Cleanup(ending.Wait)
	defer close(drained)
	for i, p := range pushers {
		ending.Go(func() { p.end(a, byte(i), policy, drained) })
	}
	next, over := make([]int64, len(pushers)), map[byte]bool{}
	for len(over) < len(pushers) {
		frame := a.next()
		who, n := frame[0], int64(binary.BigEndian.Uint32(frame[1:]))
		switch {
		case who == pastFull && past:
		case int(who) >= len(pushers):
			a.t.Fatal("a frame arrived though Send returned an error")
		case n == lastFrame:
			over[who] = true
		case n < next[who], n > next[who] && policy != Sheds:
			a.t.Fatalf("frame %d of sender %d arrived, want frame %d", n, who, next[who])
		default:
			next[who] = n + 1
		}
	}
	a.checkNothingMissing(policy, pushers, next)
}

func (a *actor) checkNothingMissing(policy Overflow, pushers []*pusher, next []int64) {
	a.t.Helper()
	var dropped uint64
	if d, ok := a.Transport.(transport.Dropper); ok {
		dropped = d.Dropped()
	}
	for i, p := range pushers {
		missing := p.accepted.Load() - next[i]
		if missing != 0 && (policy != Sheds || dropped == 0) {
			a.t.Errorf("of %d frames that Send accepted %d arrived; the receiver counts %d as dropped", p.accepted.Load(), next[i], dropped)
		}
	}
}

// end sends the last frame: all goes on once the receiver receives again.
func (p *pusher) end(to *actor, number byte, policy Overflow, received <-chan struct{}) {
	<-p.ended
	ctx, cancel := p.from.soon()
	defer cancel()
	frame := binary.BigEndian.AppendUint32([]byte{number}, lastFrame)
	for {
		err := p.from.Send(ctx, to.direct(), frame)
		switch {
		case err == nil && policy != Sheds, ctx.Err() != nil:
			return
		case err != nil && !errors.Is(err, transport.ErrQueueFull):
			p.from.t.Errorf("Send to an agent that receives again: %v", err)
			return
		}
		select {
		case <-received:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tooMany returns a number of frames that a receiver who does not receive has no room for.
func (c *cast) tooMany() int {
	if c.overflow() == Sheds { // which takes them all: no need to wait for so many
		return pressureFrames / 8
	}
	return pressureFrames
}

func testCloseOfFullReceiver(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter()
	alice.reaches(bob)
	p := push(alice, 0, bob, c.tooMany())
	stuck := !settled(t, []*pusher{p})
	bob.close()
	until(t, "senders to a full agent that left are told so", func() bool {
		return p.done() && errors.Is(alice.trySend(t.Context(), bob.direct(), []byte("x")), transport.ErrUnreachable)
	})
	if stuck && !errors.Is(p.err, transport.ErrUnreachable) {
		t.Errorf("Send to a full agent that left: %v, want ErrUnreachable", p.err)
	}
}

func testCloseOfSenderToFullReceiver(t *testing.T, c *cast) {
	alice, bob, carol := c.enter(), c.enter(), c.enter()
	alice.reaches(bob)
	p := push(alice, 0, bob, c.tooMany())
	stuck := !settled(t, []*pusher{p})
	alice.close()
	until(t, "a sender whose transport is closed returns", p.done)
	if stuck && !errors.Is(p.err, transport.ErrClosed) {
		t.Errorf("Send by a transport that was closed: %v, want ErrClosed", p.err)
	}
	var ending sync.WaitGroup
	t.Cleanup(ending.Wait)
	received := make(chan struct{})
	defer close(received)
	last := push(carol, 1, bob, 0)
	ending.Go(func() { last.end(bob, 1, c.overflow(), received) }) // again while he is full
	for got := bob.next(); got[0] != 1; got = bob.next() {
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func testSizes(t *testing.T, c *cast) {
	alice, bob := c.enter(), c.enter("t")
	limit := c.fabric.(Limits).MaxFrame()
	largest := strings.Repeat("x", limit)
	for _, to := range []transport.Route{bob.direct(), topics("t"), {}} {
		alice.mustSend(to, largest)
		alice.mustSend(to, "small")
		err := alice.trySend(t.Context(), to, []byte(largest+"x"))
		if !errors.Is(err, transport.ErrTooLarge) {
			t.Fatalf("Send of %d bytes, one more than the limit, to %s: %v, want ErrTooLarge", limit+1, to, err)
		}
		alice.checkSendError(err, to)
		for _, number := range []int{limit, limit + 1} {
			if !strings.Contains(err.Error(), strconv.Itoa(number)) {
				t.Errorf("Send of a frame that is too large: %q does not name %d, the size or the limit", err, number)
			}
		}
		alice.mustSend(to, "small again")
		bob.expect(largest, "small", "small again")
	}
}
