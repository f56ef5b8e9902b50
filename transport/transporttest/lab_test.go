package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

// lab is a fabric without wires whose faults are simulated, so that the suite itself can be tested: it
// passes on a sound lab, and fails on one with a defect.
type lab struct {
	network *local.Network
	policy  Overflow
	defect  func(*labTransport)

	mu       sync.Mutex
	paths    map[path]*labPath
	pathsAre labDefects
	members  map[identity.ID]int // how many transports each agent has had
	kept     [][]byte
}

// labDefects are defects of paths.
type labDefects struct {
	final  bool // no fault ends
	late   bool // what was lost arrives after what came later
	strict bool // what was overtaken is dropped
}

// labPath is the state of the way from one agent to another.
type labPath struct {
	away     bool
	shuffled bool
	flapping bool
	carried  int
	lately   [][]byte // for Replay
	held     [][]byte // for Reorder
	lost     [][]byte
	defects  labDefects
}

const labMaxFrame = 1 << 20

func newLab(t *testing.T, policy Overflow, capacity int, defect func(*labTransport)) *lab {
	t.Helper()
	config := local.Config{Capacity: capacity}
	if policy != Blocks {
		config.WhenFull = transport.DropNewest
	}
	n, err := local.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{network: n, policy: policy, defect: defect, paths: map[path]*labPath{}, members: map[identity.ID]int{}}
}

func (l *lab) WhenReceiverStops() Overflow { return l.policy }
func (l *lab) MaxFrame() int               { return labMaxFrame }

func (l *lab) Transport(_ *testing.T, id *identity.Identity) transport.Transport {
	e := &labTransport{Endpoint: l.network.Endpoint(id.ID()), lab: l, id: id.ID()}
	e.start, e.subscribe, e.unsubscribe, e.end = e.Endpoint.Start, e.Endpoint.Subscribe, e.Endpoint.Unsubscribe, e.Endpoint.Close
	e.send, e.receive, e.dropped = e.sendSound, e.receiveSound, e.Endpoint.Dropped
	l.mu.Lock()
	l.members[e.id]++
	l.mu.Unlock()
	if l.defect != nil {
		l.defect(e)
	}
	return e
}

func (l *lab) Crowd(t *testing.T, hub *identity.Identity, others []*identity.Identity) (transport.Transport, []transport.Transport) {
	var rest []transport.Transport
	for _, id := range others {
		rest = append(rest, l.Transport(t, id))
	}
	return l.Transport(t, hub), rest
}

// change alters the state of the ways between two agents.
func (l *lab) change(a, b identity.ID, do func(*labPath)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range []*labPath{l.path(a, b), l.path(b, a)} {
		do(p)
		p.away = p.away || l.pathsAre.final
	}
}

// path returns the way from one agent to another; l.mu is held.
func (l *lab) path(from, to identity.ID) *labPath {
	p := l.paths[path{from, to}]
	if p == nil {
		p = &labPath{defects: l.pathsAre}
		l.paths[path{from, to}] = p
	}
	return p
}

func (l *lab) Cut(a, b identity.ID)   { l.change(a, b, func(p *labPath) { p.away = true }) }
func (l *lab) Stall(a, b identity.ID) { l.Cut(a, b) }
func (l *lab) Heal(a, b identity.ID) {
	l.change(a, b, func(p *labPath) { *p = labPath{held: p.held, defects: p.defects} })
}
func (l *lab) Flap(a, b identity.ID, _ int) { l.change(a, b, func(p *labPath) { p.flapping = true }) }
func (l *lab) Reorder(a, b identity.ID)     { l.change(a, b, func(p *labPath) { p.shuffled = true }) }
func (l *lab) Replay(a, b identity.ID) {
	l.change(a, b, func(p *labPath) { p.held = slices.Clone(p.lately) })
}

// Strand and Slow are no faults for a transport that has no connections and no speed.
func (l *lab) Strand(a, b identity.ID)      { l.change(a, b, func(*labPath) {}) }
func (l *lab) Slow(a, b identity.ID, _ int) { l.change(a, b, func(*labPath) {}) }

// labTransport is a local endpoint whose frames name their sender, so that the receiver's side can do what
// a wire would. Defects replace its functions.
type labTransport struct {
	*local.Endpoint
	lab *lab
	id  identity.ID

	start                  func(context.Context) error
	send                   func(context.Context, transport.Route, []byte) error
	receive                func(context.Context) (transport.Frame, error)
	subscribe, unsubscribe func(context.Context, message.Pattern) error
	end                    func() error
	dropped                func() uint64

	mu      sync.Mutex
	arrived [][]byte
}

func (e *labTransport) Start(ctx context.Context) error { return e.start(ctx) }
func (e *labTransport) Close() error                    { return e.end() }
func (e *labTransport) Dropped() uint64                 { return e.dropped() }

func (e *labTransport) Subscribe(ctx context.Context, p message.Pattern) error {
	return e.subscribe(ctx, p)
}

func (e *labTransport) Unsubscribe(ctx context.Context, p message.Pattern) error {
	return e.unsubscribe(ctx, p)
}

func (e *labTransport) Send(ctx context.Context, to transport.Route, frame []byte) error {
	return e.send(ctx, to, frame)
}

func (e *labTransport) Receive(ctx context.Context) (transport.Frame, error) { return e.receive(ctx) }

func (e *labTransport) away(peer identity.ID) bool {
	e.lab.mu.Lock()
	defer e.lab.mu.Unlock()
	return e.lab.path(e.id, peer).away
}

func (e *labTransport) sendSound(ctx context.Context, to transport.Route, frame []byte) error {
	if len(frame) > labMaxFrame {
		err := fmt.Errorf("%w: %d bytes, the limit is %d", transport.ErrTooLarge, len(frame), labMaxFrame)
		return &transport.SendError{Route: to, Missed: 1, Err: err}
	}
	if e.away(to.To) {
		return &transport.SendError{Route: to, Missed: 1, Err: transport.ErrUnreachable}
	}
	err := e.Endpoint.Send(ctx, to, append(e.id[:], frame...))
	if e.lab.policy == Sheds && errors.Is(err, transport.ErrQueueFull) {
		return nil
	}
	return err
}

func (e *labTransport) receiveSound(ctx context.Context) (transport.Frame, error) {
	for {
		if data, ok := e.pop(); ok {
			return transport.Frame{Data: data}, nil
		}
		frame, err := e.Endpoint.Receive(ctx)
		if err != nil {
			return frame, err
		}
		e.arrive(identity.ID(frame.Data[:32]), frame.Data[32:])
	}
}

func (e *labTransport) pop() ([]byte, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.arrived) == 0 {
		return nil, false
	}
	first := e.arrived[0]
	e.arrived = e.arrived[1:]
	return first, true
}

// arrive puts what comes over a path, with its faults, where receive finds it.
func (e *labTransport) arrive(from identity.ID, frame []byte) {
	e.lab.mu.Lock()
	defer e.lab.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.arrived = append(e.arrived, e.lab.path(from, e.id).deliver(frame)...)
}

func (p *labPath) deliver(frame []byte) (delivered [][]byte) {
	p.carried++
	if p.away || p.flapping && p.carried%40 == 0 {
		p.lost = append(p.lost, frame)
		return nil
	}
	p.lately = append(p.lately[max(0, len(p.lately)-50):], frame)
	if p.shuffled && len(p.held) < 8 {
		p.held = append(p.held, frame)
		return nil
	}
	if p.flapping && p.carried%40 == 1 { // what was under way when the connection broke is sent again
		delivered = slices.Clone(p.lately[max(0, len(p.lately)-4):])
	}
	if p.shuffled && !p.defects.strict {
		slices.Reverse(p.held)
	}
	if !p.defects.strict || !p.shuffled {
		delivered = append(delivered, p.held...)
	}
	delivered, p.held = append(delivered, frame), nil
	if p.defects.late {
		delivered, p.lost = append(delivered, p.lost...), nil
	}
	for i := range delivered {
		delivered[i] = clone(delivered[i]) // receivers own their frames
	}
	return delivered
}
