package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

var loadTests = []test{
	{"CloseUnderLoad", testCloseUnderLoad},
	{"CloseTwiceAtOnce", testCloseTwiceAtOnce},
	{"CloseDrains", testCloseDrains},
	{"SubscriptionsUnderLoad", testSubscriptionsUnderLoad},
	{"ThousandPeers", testThousandPeers},
}

// worker is an actor with senders and receivers at full speed.
type worker struct {
	*actor
	closing  atomic.Bool
	received atomic.Int64
	ends     sync.WaitGroup
}

func newWorker(a *actor, routes []transport.Route) *worker {
	w := &worker{actor: a}
	ctx := context.WithoutCancel(a.t.Context())
	for range 2 {
		w.ends.Go(func() { w.check(w.sendAll(ctx, routes), "Send") })
		w.ends.Go(func() { w.check(w.receiveAll(ctx), "Receive") })
	}
	return w
}

// sendAll sends until an error that does not say that a recipient is away or busy.
func (w *worker) sendAll(ctx context.Context, routes []transport.Route) error {
	frame := make([]byte, 200)
	for i := 0; ; i++ {
		err := w.Send(ctx, routes[i%len(routes)], frame)
		if err != nil && !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrQueueFull) {
			return err
		}
		if i%breath == breath-1 {
			pause()
		}
	}
}

func (w *worker) receiveAll(ctx context.Context) error {
	for {
		if _, err := w.receive(ctx); err != nil {
			return err
		}
		w.received.Add(1)
	}
}

func (w *worker) check(err error, what string) {
	if !w.closing.Load() {
		w.t.Errorf("%s of a transport that nobody closed: %v", what, err)
	} else if !errors.Is(err, transport.ErrClosed) {
		w.t.Errorf("%s of a transport that was closed: %v, want ErrClosed", what, err)
	}
}

// closeTwice closes the worker's transport by two goroutines at once, and waits for all that used it.
func (w *worker) closeTwice() {
	w.t.Helper()
	w.closing.Store(true)
	returned := make(chan error, 2)
	for range 2 {
		go func() { returned <- w.Close() }()
	}
	for range 2 {
		await(w.t, returned, nil, "Close by two goroutines at once")
	}
	awaitAll(w.t, &w.ends, "Send or Receive of a transport that was closed")
}

func testCloseUnderLoad(t *testing.T, c *cast) {
	actors := []*actor{c.enter("t"), c.enter("t"), c.enter("t")}
	routes := []transport.Route{topics("t"), {}}
	for _, a := range actors {
		routes = append(routes, a.direct())
	}
	var workers []*worker
	for i, a := range actors {
		others := append(routes[:2:2], routes[2+(i+1)%3], routes[2+(i+2)%3])
		workers = append(workers, newWorker(a, others))
	}
	for _, w := range workers {
		until(t, "frames arrive everywhere", func() bool { return w.received.Load() > hectic })
	}
	workers[0].closeTwice()
	for _, w := range workers[1:] {
		before := w.received.Load()
		until(t, "the others go on", func() bool { return w.received.Load() > before+hectic })
	}
	workers[1].closeTwice()
	workers[2].closeTwice()
}

func testCloseTwiceAtOnce(t *testing.T, c *cast) {
	for _, a := range []*actor{c.hire(), c.enter(), c.enter()} {
		w := &worker{actor: a}
		w.closeTwice()
	}
}

// testCloseDrains wants what Send took from an agent that leaves to arrive at one that listens.
func testCloseDrains(t *testing.T, c *cast) {
	for range closings {
		alice, bob := c.play(), c.play()
		s := newStream(alice, bob)
		s.through()
		first := s.next
		for range 100 {
			if err := s.send(); err != nil {
				t.Fatal(err)
			}
		}
		alice.close()
		until(t, "what was sent before Close arrives", func() bool { return len(bob.heardFrom(alice, first)) == 100 })
		s.audit(true)
		bob.close()
	}
}

func testLeaveAndComeBack(t *testing.T, c *cast) {
	alice, bob := c.play(), c.play("t")
	for round := range 4 {
		there, back := newStream(alice, bob), newStream(bob, alice)
		there.next, back.next = round*100_000, round*100_000 // the other one goes on counting
		there.through()
		back.through()
		there.pour(aside)
		back.pour(aside)
		if round > 0 {
			alice.mustSend(topics("t"), there.signNext()) // the new bob would refuse it: it subscribes to nothing
			there.pour(1)
		}
		there.audit(true)
		back.audit(true)
		bob.close()
		if round%2 == 0 {
			there.unreachable()
		}
		bob = c.listen(c.again(bob.actor))
	}
}

// testSubscriptionsUnderLoad changes subscriptions while frames arrive by others that stay.
func testSubscriptionsUnderLoad(t *testing.T, c *cast) {
	l := &subscriptionLoad{alice: c.enter(), bob: c.enter("steady.>"), changed: make(chan struct{})}
	var changing, running sync.WaitGroup
	t.Cleanup(func() { awaitAll(t, &running, "Send, Subscribe or Unsubscribe under load") })
	for _, pattern := range []string{"fickle.*", "fickle.a", ">"} {
		changing.Go(func() { l.change(pattern) })
	}
	running.Go(func() { changing.Wait(); close(l.changed) })
	running.Go(l.send)
	l.receive()
	l.alice.mustSend(topics("fickle.a"), "after the end of the subscriptions")
	l.bob.expectNothingBut(l.alice)
}

// subscriptionLoad is frames of three kinds from alice to bob: those of the kind "fickle" come by
// subscriptions that change, the others come by one that stays, and those of the kind "both" by both.
type subscriptionLoad struct {
	alice, bob *actor
	received   atomic.Int64  // those that have to arrive
	changed    chan struct{} // closed when no subscription changes any more
}

// change subscribes and unsubscribes for as long as it takes to have done so under load.
func (l *subscriptionLoad) change(pattern string) {
	for i := 0; (i < 40 || l.received.Load() < fickle) && !l.bob.t.Failed(); i++ {
		l.bob.change(l.bob.Subscribe, pattern)
		l.bob.change(l.bob.Unsubscribe, pattern)
	}
}

const endOfLoad = "end"

func (l *subscriptionLoad) send() {
	defer l.alice.sendAside(l.bob.direct(), endOfLoad)
	for i := 0; ; i++ {
		l.alice.sendAside(topics("steady.a"), fmt.Sprint("steady ", i))
		l.alice.sendAside(topics("fickle.a"), fmt.Sprint("fickle ", i))
		l.alice.sendAside(topics("fickle.a", "steady.a"), fmt.Sprint("both ", i))
		for int64(i) > l.received.Load()/2+100 && !l.alice.t.Failed() { // no more than queues hold
			pause()
		}
		select {
		case <-l.changed:
			return
		default:
		}
	}
}

// receive checks that nothing is missing of what comes by the subscription that stays, and that nothing
// comes twice or late.
func (l *subscriptionLoad) receive() {
	l.bob.t.Helper()
	next := map[string]int{}
	for frame := string(l.bob.next()); frame != endOfLoad; frame = string(l.bob.next()) {
		var kind string
		var n int
		fmt.Sscan(frame, &kind, &n)
		if n < next[kind] || n > next[kind] && kind != "fickle" {
			l.bob.t.Fatalf("%q arrived, want %d", frame, next[kind])
		}
		if kind != "fickle" {
			l.received.Add(1)
		}
		next[kind] = n + 1
	}
}

// sendAside is mustSend for goroutines that are not the test's.
func (a *actor) sendAside(to transport.Route, frame string) {
	ctx, cancel := a.soon()
	defer cancel()
	if err := a.Send(ctx, to, []byte(frame)); err != nil {
		a.t.Errorf("Send to %s: %v", to, err)
	}
}

func (a *actor) change(change func(context.Context, message.Pattern) error, pattern string) {
	ctx, cancel := a.soon()
	defer cancel()
	if err := change(ctx, message.MustPattern(pattern)); err != nil {
		a.t.Errorf("subscription %q: %v", pattern, err)
	}
}
