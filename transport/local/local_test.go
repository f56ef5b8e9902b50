package local_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fabric struct{ network *local.Network }

func (f fabric) Transport(_ *testing.T, id *identity.Identity) transport.Transport {
	return f.network.Endpoint(id.ID())
}

func TestConformance(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return fabric{newNetwork(t, local.Config{})} })
}

// refusing is a fabric whose full queues refuse.
type refusing struct{ fabric }

func (refusing) WhenReceiverStops() transporttest.Overflow { return transporttest.Refuses }

func TestConformanceIfFullQueuesRefuse(t *testing.T) {
	config := local.Config{Capacity: 4096, WhenFull: transport.DropNewest}
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric { return refusing{fabric{newNetwork(t, config)}} })
}

func newNetwork(t *testing.T, c local.Config) *local.Network {
	t.Helper()
	n, err := local.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newEndpoint(t *testing.T, n *local.Network, id byte) *local.Endpoint {
	t.Helper()
	e := n.Endpoint(identity.ID{id})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestCapacityIsChecked(t *testing.T) {
	for _, capacity := range []int{-1, math.MaxInt32 + 1} {
		if _, err := local.New(local.Config{Capacity: capacity}); err == nil || !strings.Contains(err.Error(), "Capacity") {
			t.Errorf("New with a capacity of %d: %v, want an error that names the field", capacity, err)
		}
	}
}

func TestAttachedTwiceIsRefused(t *testing.T) {
	n := newNetwork(t, local.Config{})
	first := newEndpoint(t, n, 1)
	second := n.Endpoint(identity.ID{1})
	if err := second.Start(t.Context()); !errors.Is(err, local.ErrAttached) {
		t.Errorf("Start of a second endpoint of one agent: %v, want ErrAttached", err)
	}
	first.Close()
	if err := second.Start(t.Context()); err != nil {
		t.Errorf("Start once the first is closed: %v", err)
	}
	second.Close()
}

func TestFullQueueBlocksUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, local.Config{Capacity: 1})
		alice, bob := newEndpoint(t, n, 1), newEndpoint(t, n, 2)
		route := transport.Route{To: identity.ID{2}}
		if err := alice.Send(t.Context(), route, []byte("first")); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- alice.Send(t.Context(), route, []byte("second")) }()
		synctest.Wait()
		if len(sent) > 0 {
			t.Fatal("Send to a full queue returned")
		}
		if _, err := bob.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Errorf("Send once there was room: %v", err)
		}
	})
}

func TestFullQueueDoesNotKeepOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, local.Config{Capacity: 1})
		alice, _, carol := newEndpoint(t, n, 1), newEndpoint(t, n, 2), newEndpoint(t, n, 3)
		if err := alice.Send(t.Context(), transport.Route{To: identity.ID{2}}, []byte("fills bob's queue")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan error, 1)
		go func() { sent <- alice.Send(ctx, transport.Route{}, []byte("to all")) }()
		synctest.Wait()
		if frame, err := carol.Receive(t.Context()); err != nil || string(frame.Data) != "to all" {
			t.Errorf("carol received %q, %v though only bob's queue is full", frame.Data, err)
		}
		cancel()
		sendErr, ok := errors.AsType[*transport.SendError](<-sent)
		if !ok || sendErr.Missed != 1 || !errors.Is(sendErr, context.Canceled) {
			t.Errorf("Send: %v, want one recipient missed", sendErr)
		}
	})
}

func TestCloseUnblocksSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, local.Config{Capacity: 1})
		alice, _ := newEndpoint(t, n, 1), newEndpoint(t, n, 2)
		sent := make(chan error, 2)
		for range 2 {
			go func() {
				sent <- alice.Send(context.WithoutCancel(t.Context()), transport.Route{To: identity.ID{2}}, []byte("x"))
			}()
		}
		synctest.Wait()
		alice.Close()
		if err := errors.Join(<-sent, <-sent); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Send to a full queue by a transport that was closed: %v, want ErrClosed", err)
		}
	})
}

func TestFullQueueDropsAndCountsIfSoConfigured(t *testing.T) {
	n := newNetwork(t, local.Config{Capacity: 2, WhenFull: transport.DropNewest})
	alice, bob := newEndpoint(t, n, 1), newEndpoint(t, n, 2)
	var errs []error
	for range 5 {
		errs = append(errs, alice.Send(t.Context(), transport.Route{To: identity.ID{2}}, []byte("x")))
	}
	for i, err := range errs {
		if full := errors.Is(err, transport.ErrQueueFull); full != (i >= 2) {
			t.Errorf("Send %d to a queue for 2: %v", i+1, err)
		}
	}
	if bob.Dropped() != 3 {
		t.Errorf("Dropped() = %d, want 3", bob.Dropped())
	}
}
