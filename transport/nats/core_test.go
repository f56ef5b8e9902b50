package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestRecipientThatLeavesIsNoticed(t *testing.T) {
	n := newNetwork(t, nats.Config{})
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "hello")
	bob.expect("hello")
	bob.Close()
	until(t, "Send to an agent that has left returns ErrUnreachable", func() bool {
		return errors.Is(alice.try(bob.route(), "are you there?"), transport.ErrUnreachable)
	})
	if lost := n.Stats().Lost; lost == 0 {
		t.Error("a frame that nobody listened for was accepted and not counted as lost")
	}
}

// TestKnownRecipientCostsNoRoundTrip cuts off the broker's answers: what is sent does not wait for them.
func TestKnownRecipientCostsNoRoundTrip(t *testing.T) {
	f := newApart(t, nats.Config{}, nats.Config{}) // an answer is missed after 45 s
	alice := &agent{f.Transport(t, newIdentity(t)).(*nats.Endpoint), t, nil}
	bob := join(t, newNetwork(t, nats.Config{URL: "nats://" + f.broker.Addr().String()}))
	if err := alice.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alice.Close() })
	alice.send(bob.route(), "first")
	bob.expect("first")
	for _, p := range f.paths {
		p.proxy.Stall(transporttest.Backward)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience/3)
	defer cancel()
	for i := range 100 {
		if err := alice.Send(ctx, bob.route(), fmt.Append(nil, i)); err != nil {
			t.Fatalf("Send of frame %d without an answer of the broker: %v", i, err)
		}
		bob.expect(fmt.Sprint(i))
	}
	for _, p := range f.paths {
		p.proxy.Heal()
	}
}

func TestFramesToOneselfArrive(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			alice := join(t, newNetwork(t, c), "t", ">")
			alice.send(topics("t"), "own topic")
			alice.send(transport.Route{}, "own broadcast")
			alice.send(alice.route(), "to myself")
			alice.expect("to myself")
		})
	}
}

// modes are configurations in which the same has to hold.
func modes(t *testing.T) map[string]nats.Config {
	return map[string]nats.Config{"core": {}, "durable": durable(t)}
}

func TestAttributesAndVersionsAreComparedAtTheReceiver(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, c)
			alice, second, gold := join(t, n), join(t, n, "orders.*@2"), join(t, n, "orders.>?tier=gold", "orders.created@2")
			alice.send(topics("orders.created"), "plain")
			alice.send(topics("orders.created@2"), "second")
			alice.send(topics("orders.created@2?tier=gold"), "second and gold")
			alice.send(topics("orders.eu?tier=gold", "orders.created@2"), "two topics")
			second.expect("second", "second and gold", "two topics")
			gold.expect("second", "second and gold", "two topics")
			second.expectNothingBut(alice)
			gold.expectNothingBut(alice)
		})
	}
}

func TestNetworksOnOneBrokerAreApart(t *testing.T) {
	broker := newNetwork(t, listening(nats.Config{}))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	on := func(network string) *nats.Network {
		n, err := nats.New(nats.Config{Network: network, URL: "nats://" + broker.Addr().String(), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	dotted, prefix := on("a.b"), on("a")
	alice, bob, carol := join(t, dotted), join(t, dotted, ">"), join(t, prefix, ">", "b.>")
	alice.send(topics("t"), "topic")
	alice.send(transport.Route{}, "broadcast")
	bob.expect("topic", "broadcast")
	if err := alice.try(carol.route(), "x"); !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("Send to an agent of another network: %v, want ErrUnreachable", err)
	}
	carol.send(carol.route(), "to myself")
	carol.expect("to myself")
}

func TestEachFrameReachesOneMemberOfAGroup(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, c)
			alice, reader := join(t, n), join(t, n, "work.>")
			var mu sync.Mutex
			got, shares := map[string]int{}, make([]int, 4)
			shared := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return !slices.Contains(shares, 0)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var working sync.WaitGroup
			for i := range shares {
				member := join(t, n)
				for range 2 { // twice is fine
					if err := member.SubscribeGroup(ctx, message.MustPattern("work.>"), "pool"); err != nil {
						t.Fatal(err)
					}
				}
				working.Go(func() {
					for {
						frame, err := member.Receive(ctx)
						if err != nil {
							return
						}
						if frame.Done != nil {
							frame.Done()
						}
						mu.Lock()
						got[string(frame.Data)]++
						shares[i]++
						mu.Unlock()
					}
				})
			}
			defer working.Wait()
			defer cancel()
			frames := 0
			until(t, "all members have got something", func() bool {
				for range 50 {
					route := topics("work.a")
					if frames%2 == 0 {
						route = topics("work.a", "other", "work.b", "work.c.d")
					}
					alice.send(route, fmt.Sprint(frames))
					reader.expect(fmt.Sprint(frames))
					frames++
				}
				return shared()
			})
			until(t, "all frames reach a member", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(got) == frames
			})
			mu.Lock()
			defer mu.Unlock()
			for frame, n := range got {
				if n != 1 {
					t.Errorf("frame %s reached %d members", frame, n)
				}
			}
		})
	}
}

func TestGroupTakesNothingBackToItsSender(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, c)
			alice, bob := join(t, n), join(t, n)
			for _, a := range []*agent{alice, bob} {
				if err := a.SubscribeGroup(t.Context(), message.MustPattern("work"), "pool"); err != nil {
					t.Fatal(err)
				}
			}
			receive, cancel := context.WithCancel(t.Context())
			defer cancel()
			go alice.Receive(receive) // in the durable mode, frames come to those who receive
			const frames = 40
			for i := range frames {
				alice.send(topics("work"), fmt.Sprint(i))
			}
			seen := map[string]bool{}
			for len(seen) < frames {
				seen[bob.next()] = true
			}
		})
	}
}

func TestLeftGroupGetsNothing(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, c)
			alice, bob, carol := join(t, n), join(t, n), join(t, n)
			pattern := message.MustPattern("work")
			for _, a := range []*agent{bob, carol} {
				if err := a.SubscribeGroup(t.Context(), pattern, "pool"); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // ending none is fine
				if err := carol.UnsubscribeGroup(t.Context(), pattern, "pool"); err != nil {
					t.Fatal(err)
				}
			}
			seen := map[string]bool{}
			for i := range 20 {
				alice.send(topics("work"), fmt.Sprint(i))
				seen[bob.next()] = true
			}
			if len(seen) != 20 {
				t.Errorf("the member that stayed got %d frames of 20", len(seen))
			}
			carol.expectNothingBut(alice)
		})
	}
}

func TestGroupNamesAreChecked(t *testing.T) {
	alice := join(t, newNetwork(t, nats.Config{}))
	for _, name := range []string{"", "a b", "a.b", ">", "*", "a\r\n", strings.Repeat("x", 65)} {
		if err := alice.SubscribeGroup(t.Context(), message.MustPattern("t"), name); err == nil {
			t.Errorf("the group %q was joined", name)
		}
	}
	for i := range nats.MaxGroups {
		if err := alice.SubscribeGroup(t.Context(), message.MustPattern("t"), fmt.Sprint("g", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := alice.SubscribeGroup(t.Context(), message.MustPattern("t"), "one-more"); err == nil {
		t.Error("there is no bound on groups")
	}
}

// TestSlowConsumerShedsTopicsAndSaysSo: topics do not wait for subscribers.
func TestSlowConsumerShedsTopicsAndSaysSo(t *testing.T) {
	began := time.Now()
	var log logbook
	n := newNetwork(t, nats.Config{Pending: 100, Logger: log.logger(slog.LevelWarn)})
	alice, bob := join(t, n), join(t, n, "t")
	const frames = 2000
	for i := range frames {
		alice.send(topics("t"), fmt.Sprint(i))
	}
	until(t, "what bob has no room for is counted", func() bool { return bob.Dropped() == frames-50 })
	if refused := n.Stats().Refused["slow_consumer"]; refused != frames-50 {
		t.Errorf(`Refused["slow_consumer"] is %d, want %d`, refused, frames-50)
	}
	if lines := log.lines("slow_consumer"); lines < 1 || lines > 2+int(time.Since(began)/time.Second) {
		t.Errorf("%d lines in the log, want one a second at most", lines)
	}
	for i := range 50 { // one sender's share
		bob.expect(fmt.Sprint(i))
	}
	bob.expectNothingBut(alice)
}

func TestPendingBytesBoundWhatWaits(t *testing.T) {
	n := newNetwork(t, nats.Config{PendingBytes: 10_000})
	alice, bob, carol, dave := join(t, n), join(t, n, "t"), join(t, n), join(t, n)
	for _, from := range []*agent{alice, carol, dave} {
		for range 20 {
			from.send(topics("t"), strings.Repeat("x", 1000))
		}
	}
	until(t, "what bob has no room for is counted", func() bool { return bob.Dropped() == 50 })
}

// TestSendersNeedNotWait is the other policy.
func TestSendersNeedNotWait(t *testing.T) {
	n := newNetwork(t, nats.Config{WhenFull: transport.DropNewest, Pending: 100})
	alice, bob := join(t, n), join(t, n)
	const frames = 5000 // far more than the window
	for i := range frames {
		alice.send(bob.route(), fmt.Sprint(i))
	}
	until(t, "what bob has no room for is counted", func() bool { return bob.Dropped() == frames-50 })
	for i := range 50 {
		bob.expect(fmt.Sprint(i))
	}
}

// TestSendersWaitForAReceiverThatStops, and what they were told was sent is not lost.
func TestSendersWaitForAReceiverThatStops(t *testing.T) {
	n := newNetwork(t, nats.Config{})
	alice, bob := join(t, n), join(t, n)
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, enough)
	defer cancel()
	sent := 0
	for ; ; sent++ {
		if err := alice.Send(ctx, bob.route(), fmt.Append(nil, sent)); err != nil {
			if !errors.Is(err, enough) {
				t.Errorf("Send to an agent that does not receive: %v, want the cause of its context's end", err)
			}
			break
		}
	}
	if sent > 5000 {
		t.Errorf("%d frames were accepted for an agent that does not receive", sent)
	}
	for i := range sent {
		bob.expect(fmt.Sprint(i))
	}
	bob.expectNothingBut(alice)
}

func TestSendFailsAfterGraceWithoutABroker(t *testing.T) {
	f := newApart(t, brisk(nats.Config{}), brisk(nats.Config{}))
	alice, bob := f.Transport(t, newIdentity(t)), f.Transport(t, newIdentity(t))
	for _, tr := range []transport.Transport{alice, bob} {
		if err := tr.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
	}
	for _, p := range f.paths {
		p.proxy.Cut()
	}
	for _, route := range []transport.Route{topics("t"), {}, {To: newIdentity(t).ID()}} {
		until(t, "Send without a broker returns ErrUnreachable", func() bool {
			return errors.Is(alice.Send(t.Context(), route, []byte("x")), transport.ErrUnreachable)
		})
	}
	if err := alice.Subscribe(t.Context(), message.MustPattern("t")); err != nil {
		t.Errorf("Subscribe without a broker: %v", err)
	}
	for _, p := range f.paths {
		p.proxy.Heal()
	}
	until(t, "a subscription made without a broker holds when it is back", func() bool {
		bob.Send(t.Context(), topics("t"), []byte("hello"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		frame, err := alice.Receive(ctx)
		return err == nil && string(frame.Data) == "hello"
	})
}

func TestStatsCountFramesAndConnections(t *testing.T) {
	n := newNetwork(t, nats.Config{})
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "12345")
	bob.expect("12345")
	s := n.Stats()
	if s.Connections != 2 || s.Opened != 2 || s.Closed != 0 || s.FramesIn != 1 || s.FramesOut != 1 || s.BytesIn != 5 || s.BytesOut != 5 {
		t.Errorf("Stats() = %+v", s)
	}
	if len(s.Refused) != 6 {
		t.Errorf("Refused names %d reasons, want all of them from the start: %v", len(s.Refused), s.Refused)
	}
	bob.Close()
	if s := n.Stats(); s.Connections != 1 || s.Closed != 1 {
		t.Errorf("Stats() = %+v after one of two left", s)
	}
}

// TestRecipientIsMissedThoughSomebodyListens: a monitor that subscribes to everything is no recipient.
func TestRecipientIsMissedThoughSomebodyListens(t *testing.T) {
	n := newNetwork(t, listening(nats.Config{ConnectTimeout: time.Second}))
	alice, bob := join(t, n), join(t, n)
	monitor := stranger(t, n)
	if _, err := monitor.Subscribe(">", func(*client.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := monitor.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := alice.try(transport.Route{To: newIdentity(t).ID()}, "hello?"); !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("Send to an agent that is not there: %v, want ErrUnreachable", err)
	}
	ctx, cancel := alice.soon()
	defer cancel()
	full := make(chan error, 1)
	go func() {
		for {
			if err := alice.Send(ctx, bob.route(), make([]byte, 1<<20)); err != nil {
				full <- err
				return
			}
		}
	}()
	until(t, "bob is full", func() bool { return n.Stats().FramesIn >= 3 })
	bob.Close()
	if err := <-full; !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("Send to a full agent that left: %v, want ErrUnreachable", err)
	}
}
