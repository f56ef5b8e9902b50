package transporttest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

func itself(b []byte) []byte { return b }

func clone(b []byte) []byte { return append([]byte(nil), b...) }

func loses(e *labTransport) {
	send, n := e.send, new(atomic.Int64)
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if n.Add(1)%40 == 0 {
			return nil
		}
		return send(ctx, to, frame)
	}
}

func duplicates(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		for _, t := range to.Topics[:max(0, len(to.Topics)-1)] {
			if err := send(ctx, transport.Route{Topics: []message.Topic{t}}, frame); err != nil {
				return err
			}
		}
		return send(ctx, to, frame)
	}
}

func delivers(changed func(transport.Route) transport.Route) func(*labTransport) {
	return func(e *labTransport) {
		send := e.send
		e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
			return send(ctx, changed(to), frame)
		}
	}
}

func forgetsItself(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if to.To == e.id {
			return nil
		}
		return send(ctx, to, frame)
	}
}

func toEverybody(transport.Route) transport.Route { return transport.Route{} }

func toSubscribers(to transport.Route) transport.Route {
	if to.To.IsZero() && len(to.Topics) == 0 {
		return topics("orders.all")
	}
	return to
}

func swaps(e *labTransport) {
	receive := e.receive
	var swapped []byte
	n := 0
	e.receive = func(ctx context.Context) (transport.Frame, error) {
		if swapped != nil {
			frame := transport.Frame{Data: swapped}
			swapped = nil
			return frame, nil
		}
		frame, err := receive(ctx)
		if n++; err != nil || n != 50 {
			return frame, err
		}
		swapped = frame.Data
		return receive(ctx)
	}
}

func damages(e *labTransport) {
	receive := e.receive
	e.receive = func(ctx context.Context) (transport.Frame, error) {
		frame, err := receive(ctx)
		if len(frame.Data) >= 64<<10 {
			frame.Data[64<<10-1] ^= 1
		}
		return frame, err
	}
}

// keeps passes the number of a buffer that is kept, instead of the bytes.
func keeps(kept func([]byte) []byte) func(*labTransport) {
	return func(e *labTransport) {
		send, receive := e.send, e.receive
		e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
			e.lab.mu.Lock()
			e.lab.kept = append(e.lab.kept, kept(frame))
			number := binary.BigEndian.AppendUint32(nil, uint32(len(e.lab.kept)-1))
			e.lab.mu.Unlock()
			return send(ctx, to, number)
		}
		e.receive = func(ctx context.Context) (transport.Frame, error) {
			frame, err := receive(ctx)
			if err == nil {
				e.lab.mu.Lock()
				defer e.lab.mu.Unlock()
				frame.Data = e.lab.kept[binary.BigEndian.Uint32(frame.Data)]
			}
			return frame, err
		}
	}
}

// stopsAt returns a defect that takes nothing in any more after certain frames.
func stopsAt(stops func([]byte) bool) func(*labTransport) {
	return func(e *labTransport) {
		receive := e.receive
		e.receive = func(ctx context.Context) (transport.Frame, error) {
			frame, err := receive(ctx)
			if err == nil && stops(frame.Data) {
				<-ctx.Done()
				return transport.Frame{}, context.Cause(ctx)
			}
			return frame, err
		}
	}
}

func stopsAtGarbage(e *labTransport) {
	stopsAt(func(frame []byte) bool {
		_, err := message.ParseUnsafe(frame)
		return err != nil
	})(e)
}

func stopsAtDuplicates(e *labTransport) {
	seen := map[string]bool{} // one goroutine receives
	stopsAt(func(frame []byte) bool {
		again := seen[string(frame)]
		seen[string(frame)] = true
		return again
	})(e)
}

func deaf(e *labTransport) {
	send, receive := e.send, e.receive
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		return send(context.WithoutCancel(ctx), to, frame)
	}
	e.receive = func(ctx context.Context) (transport.Frame, error) { return receive(context.WithoutCancel(ctx)) }
}

func losesToContexts(e *labTransport) {
	receive, n := e.receive, new(atomic.Int64)
	e.receive = func(ctx context.Context) (transport.Frame, error) {
		for n.Load() > 0 {
			if _, err := receive(ctx); err != nil {
				return transport.Frame{}, err
			}
			n.Add(-1)
		}
		frame, err := receive(ctx)
		if err != nil && !errors.Is(err, transport.ErrClosed) {
			n.Add(1)
		}
		return frame, err
	}
}

func accepts(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if err := send(ctx, to, frame); !errors.Is(err, transport.ErrUnreachable) {
			return err
		}
		return nil
	}
}

func worksUnstarted(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if err := send(ctx, to, frame); !errors.Is(err, transport.ErrNotStarted) {
			return err
		}
		return nil
	}
}

func hangs(e *labTransport) { e.end = func() error { select {} } }

func leavesReceive(e *labTransport) {
	receive := e.receive
	e.receive = func(ctx context.Context) (transport.Frame, error) {
		frame, err := receive(ctx)
		if errors.Is(err, transport.ErrClosed) {
			<-ctx.Done()
			select {}
		}
		return frame, err
	}
}

func closesOnce(e *labTransport) {
	end, n := e.end, new(atomic.Int64)
	e.end = func() error {
		if n.Add(1) > 1 {
			return io.ErrClosedPipe
		}
		return end()
	}
}

func namesOthers(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		err := send(ctx, to, frame)
		if errors.Is(err, transport.ErrClosed) {
			return io.ErrClosedPipe
		}
		return err
	}
}

func leaves(e *labTransport) {
	start := e.start
	e.start = func(ctx context.Context) error {
		go func() { select {} }()
		return start(ctx)
	}
}

// abandons sends by a goroutine that Close does not wait for to finish its work.
func abandons(e *labTransport) {
	send, end := e.send, e.end
	type item struct {
		to    transport.Route
		frame []byte
	}
	items, closed := make(chan item, 1000), make(chan struct{})
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		items <- item{to, clone(frame)}
		return nil
	}
	go func() {
		for {
			select {
			case <-closed:
				return
			case i := <-items:
				send(context.Background(), i.to, i.frame)
				pause()
			}
		}
	}()
	e.end = sync.OnceValue(func() error { close(closed); return end() })
}

func letsNobodyBack(e *labTransport) {
	e.lab.mu.Lock()
	defer e.lab.mu.Unlock()
	if e.lab.members[e.id] > 1 {
		e.send = func(context.Context, transport.Route, []byte) error { return nil }
	}
}

func servesHalf(e *labTransport) {
	e.lab.mu.Lock()
	defer e.lab.mu.Unlock()
	if len(e.lab.members) > crowdSize/2 {
		e.send = func(_ context.Context, to transport.Route, _ []byte) error {
			return &transport.SendError{Route: to, Missed: 1, Err: transport.ErrUnreachable}
		}
	}
}

func keepsSubscriptions(e *labTransport) {
	e.unsubscribe = func(context.Context, message.Pattern) error { return nil }
}

func losesOnSubscribe(e *labTransport) {
	subscribe, n := e.subscribe, new(atomic.Int64)
	e.subscribe = func(ctx context.Context, p message.Pattern) error { n.Add(1); return subscribe(ctx, p) }
	receive := e.receive
	e.receive = func(ctx context.Context) (transport.Frame, error) {
		frame, err := receive(ctx)
		if err == nil && n.Swap(0) > 1 {
			return receive(ctx)
		}
		return frame, err
	}
}

func hides(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if err := send(ctx, to, frame); !errors.Is(err, transport.ErrQueueFull) {
			return err
		}
		return nil
	}
}

func countsNothing(e *labTransport) { e.dropped = func() uint64 { return 0 } }

func oneAtATime(e *labTransport) {
	send := e.send
	var mu sync.Mutex
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return send(ctx, to, frame)
	}
}

func tooLarge(frame []byte) bool { return len(frame) > labMaxFrame }

func unlimited(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if tooLarge(frame) {
			return nil
		}
		return send(ctx, to, frame)
	}
}

func namesNoLimit(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		if tooLarge(frame) {
			return &transport.SendError{Route: to, Missed: 1, Err: transport.ErrTooLarge}
		}
		return send(ctx, to, frame)
	}
}

func diesOfLarge(e *labTransport) {
	send := e.send
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		err := send(ctx, to, frame)
		if tooLarge(frame) {
			e.Close()
		}
		return err
	}
}

func neverRecovers(e *labTransport) { e.lab.pathsAre.final = true }

func sendsRefused(e *labTransport) {
	send := e.send
	var mu sync.Mutex
	kept := map[identity.ID][]byte{}
	e.send = func(ctx context.Context, to transport.Route, frame []byte) error {
		mu.Lock()
		defer mu.Unlock()
		err := send(ctx, to, frame)
		if errors.Is(err, transport.ErrUnreachable) {
			kept[to.To] = clone(frame)
		} else if late := kept[to.To]; late != nil {
			delete(kept, to.To)
			send(ctx, to, late)
		}
		return err
	}
}

func sendsLate(e *labTransport) { e.lab.pathsAre.late = true }

func wantsOrder(e *labTransport) { e.lab.pathsAre.strict = true }
