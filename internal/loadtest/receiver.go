package loadtest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// receiver counts what arrives. Its fields belong to the goroutine of its agent, except as noted.
type receiver struct {
	id      *identity.Identity
	clock   clock
	size    int
	unsafe  bool          // messages are not verified
	warmUp  int           // messages of each sender
	ready   chan struct{} // closed when it runs
	done    chan struct{} // closed when everything has arrived
	stages  []int         // how many messages have arrived at the end of this stage and the next ones
	arrived atomic.Int64  // different messages; any goroutine may read it
	total   int           // of them, warm-up included

	senders    map[identity.ID]*ledger
	order      []*ledger
	twice      int // messages that arrived more than once
	strange    int // messages that nobody can have sent
	latencies  latencies
	begin, end usage
}

// ledger says which messages of one sender have arrived.
type ledger struct {
	seen    []uint64 // a bit for each number
	numbers int
	arrived int
}

// mark reports whether a message is the first of that number.
func (l *ledger) mark(number uint64) bool {
	word, bit := &l.seen[number/64], uint64(1)<<(number%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	l.arrived++
	return true
}

func newReceiver(c Config, id *identity.Identity, clock clock) *receiver {
	r := &receiver{
		id:      id,
		clock:   clock,
		size:    c.Size,
		unsafe:  c.Signature == Unsigned,
		warmUp:  c.warmUp(),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		stages:  make([]int, len(c.stages(0))),
		senders: map[identity.ID]*ledger{},
	}
	for i := range c.Senders {
		ends := c.stages(i)
		for stage, end := range ends {
			r.stages[stage] += end
		}
		numbers := ends[len(ends)-1]
		r.order = append(r.order, &ledger{seen: make([]uint64, (numbers+63)/64), numbers: numbers})
	}
	r.total = r.stages[len(r.stages)-1]
	return r
}

// expect says whose messages are counted.
func (r *receiver) expect(senders []identity.ID) {
	for i, id := range senders {
		r.senders[id] = r.order[i]
	}
}

// OnStart implements [converge.Starter].
func (r *receiver) OnStart(context.Context) error {
	close(r.ready)
	return nil
}

// Decide implements [converge.Agent].
func (r *receiver) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	now := r.clock.now()
	fresh := 0
	for _, m := range t.Messages {
		if r.count(m, now) {
			fresh++
		}
	}
	arrived := int(r.arrived.Add(int64(fresh)))
	if len(r.stages) == 0 || arrived < r.stages[0] {
		return nil, nil
	}
	r.stages = r.stages[1:]
	switch len(r.stages) {
	case 0:
		r.end = measure()
		close(r.done)
		return nil, nil
	case 1:
		r.begin = measure()
	}
	return r.startSignal(), nil
}

// startSignal tells the senders that the next stage begins.
func (r *receiver) startSignal() []converge.Decision {
	var all []converge.Decision
	for id := range r.senders {
		all = append(all, converge.SendMessage{Draft: message.Draft{To: id, Body: []byte("true")}})
	}
	return all
}

// count reports whether a message is one that is waited for.
func (r *receiver) count(m *message.Message, now time.Duration) bool {
	l := r.senders[m.Sender()]
	if l == nil || len(m.Body()) != r.size || m.Verified() == r.unsafe {
		r.strange++
		return false
	}
	decided, number := readHeader(m.Body())
	if number >= uint64(l.numbers) {
		r.strange++
		return false
	}
	if !l.mark(number) {
		r.twice++
		return false
	}
	if number >= uint64(r.warmUp) {
		r.latencies.add(now - decided)
	}
	return true
}

func (r *receiver) result(c Config) Result {
	n, took := float64(c.Messages), r.end.at.Sub(r.begin.at).Seconds()
	return Result{
		Transport:         c.Transport,
		Signature:         c.Signature,
		Messages:          c.Messages,
		MessagesPerSecond: round(n/max(took, 1e-9), 1),
		P50:               round(r.latencies.quantile(0.50).Seconds()*1e6, 1),
		P99:               round(r.latencies.quantile(0.99).Seconds()*1e6, 1),
		CPUSeconds:        round((r.end.cpu - r.begin.cpu).Seconds(), 3),
		AllocsPerMessage:  round(float64(r.end.allocs-r.begin.allocs)/n, 2),
	}
}
