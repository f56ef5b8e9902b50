package transporttest

import (
	"sync"
	"testing"

	"github.com/converge-agents/converge/identity"
)

// Wires puts a [Proxy] on every path between two agents that reach each other over TCP. A fabric that
// embeds it is a [Cutter], [Staller], [Strander], [Flapper], [Slower] and [Replayer]:
//
//	type fabric struct {
//		*transporttest.Wires // NewWires(t)
//		…
//	}
//
// Whoever dials an agent is given the [Wires.Address] of the path, and [Wires.Listens] says where it leads.
// All methods are safe for concurrent use.
type Wires struct {
	t testing.TB

	mu        sync.Mutex
	paths     map[path]*Proxy
	listeners map[identity.ID]string
}

// path leads from the agent who dials to the agent who listens.
type path struct{ from, to identity.ID }

// NewWires returns wires between agents that are not known yet. They are closed at the end of the test.
func NewWires(t testing.TB) *Wires {
	return &Wires{t: t, paths: map[path]*Proxy{}, listeners: map[identity.ID]string{}}
}

// Address returns the address at which one agent dials another. It stays the same, and may be asked for
// before anybody listens; connections are reset until then.
func (w *Wires) Address(from, to identity.ID) string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.paths[path{from, to}]
	if p == nil {
		p = NewProxy(w.t)
		p.Target(w.listeners[to])
		w.paths[path{from, to}] = p
	}
	return p.Addr()
}

// Listens says at which address an agent listens now; "" is nowhere.
func (w *Wires) Listens(to identity.ID, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners[to] = addr
	for path, p := range w.paths {
		if path.to == to {
			p.Target(addr)
		}
	}
}

// between calls do with the paths from a to b and from b to a, as far as there are any, and with the
// direction on each that leads from a to b.
func (w *Wires) between(a, b identity.ID, do func(p *Proxy, aToB Direction)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.paths[path{a, b}]; p != nil {
		do(p, Forward)
	}
	if p := w.paths[path{b, a}]; p != nil {
		do(p, Backward)
	}
}

// Cut implements [Cutter].
func (w *Wires) Cut(a, b identity.ID) {
	w.between(a, b, func(p *Proxy, _ Direction) { p.Cut() })
}

// Heal implements [Cutter], [Staller], [Flapper] and [Slower].
func (w *Wires) Heal(a, b identity.ID) {
	w.between(a, b, func(p *Proxy, _ Direction) { p.Heal() })
}

// Stall implements [Staller].
func (w *Wires) Stall(from, to identity.ID) {
	w.between(from, to, func(p *Proxy, d Direction) { p.Stall(d) })
}

// Strand implements [Strander].
func (w *Wires) Strand(a, b identity.ID) {
	w.between(a, b, func(p *Proxy, _ Direction) { p.Strand() })
}

// Flap implements [Flapper].
func (w *Wires) Flap(a, b identity.ID, n int) {
	w.between(a, b, func(p *Proxy, _ Direction) { p.ResetAfter(n) })
}

// Slow implements [Slower].
func (w *Wires) Slow(a, b identity.ID, bytesPerSecond int) {
	w.between(a, b, func(p *Proxy, _ Direction) { p.Slow(bytesPerSecond) })
}

// Replay implements [Replayer].
func (w *Wires) Replay(from, to identity.ID) {
	w.between(from, to, func(p *Proxy, d Direction) { p.Replay(d) })
}

var (
	_ Cutter   = (*Wires)(nil)
	_ Staller  = (*Wires)(nil)
	_ Strander = (*Wires)(nil)
	_ Flapper  = (*Wires)(nil)
	_ Slower   = (*Wires)(nil)
	_ Replayer = (*Wires)(nil)
)
