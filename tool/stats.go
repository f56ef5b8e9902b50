package tool

import (
	"sync"
	"sync/atomic"
)

// Stats counts the calls of a [Guard] since it was made. Each call that has returned is in exactly one
// of Succeeded, Denied, Invalid, Refused, Busy, TimedOut, Cancelled, TooLarge, Panicked and Failed.
type Stats struct {
	Run       uint64 // calls that reached their tool, whatever came of them
	Succeeded uint64
	Denied    uint64
	Invalid   uint64
	Refused   uint64 // not approved
	Busy      uint64
	TimedOut  uint64
	Cancelled uint64
	TooLarge  uint64
	Panicked  uint64
	Failed    uint64
	Running   int64 // calls whose tool has not returned, those that were given up included
	Waiting   int64 // calls that wait for a free slot
}

// Stats returns the counts. Calls that go on meanwhile may show in some of them and not in others.
func (g *Guard) Stats() Stats {
	s := Stats{
		Run:       g.counts.run.Load(),
		Succeeded: g.counts.succeeded.Load(),
		Denied:    g.counts.denied.Load(),
		Invalid:   g.counts.invalid.Load(),
		Refused:   g.counts.refused.Load(),
		Busy:      g.counts.busy.Load(),
		TimedOut:  g.counts.timedOut.Load(),
		Cancelled: g.counts.cancelled.Load(),
		TooLarge:  g.counts.tooLarge.Load(),
		Panicked:  g.counts.panicked.Load(),
		Failed:    g.counts.failed.Load(),
		Running:   g.inflight.count(),
	}
	for _, gate := range g.gates {
		s.Waiting += gate.waiting.Load()
	}
	return s
}

// Plus returns the sums of both, for the calls of several guards.
func (s Stats) Plus(o Stats) Stats {
	return Stats{
		Run:       s.Run + o.Run,
		Succeeded: s.Succeeded + o.Succeeded,
		Denied:    s.Denied + o.Denied,
		Invalid:   s.Invalid + o.Invalid,
		Refused:   s.Refused + o.Refused,
		Busy:      s.Busy + o.Busy,
		TimedOut:  s.TimedOut + o.TimedOut,
		Cancelled: s.Cancelled + o.Cancelled,
		TooLarge:  s.TooLarge + o.TooLarge,
		Panicked:  s.Panicked + o.Panicked,
		Failed:    s.Failed + o.Failed,
		Running:   s.Running + o.Running,
		Waiting:   s.Waiting + o.Waiting,
	}
}

type counters struct {
	run, succeeded, denied, invalid, refused, busy, timedOut, cancelled, tooLarge, panicked, failed atomic.Uint64
}

// add counts the outcome of a call.
func (c *counters) add(err *Error) {
	if err == nil {
		c.succeeded.Add(1)
		return
	}
	switch err.Reason {
	case ErrDenied:
		c.denied.Add(1)
	case ErrInvalidParams:
		c.invalid.Add(1)
	case ErrNotApproved:
		c.refused.Add(1)
	case ErrBusy:
		c.busy.Add(1)
	case ErrTimeout:
		c.timedOut.Add(1)
	case ErrCancelled:
		c.cancelled.Add(1)
	case ErrOutputTooLarge:
		c.tooLarge.Add(1)
	case ErrPanicked:
		c.panicked.Add(1)
	default:
		c.failed.Add(1)
	}
}

// inflight counts running tools and says when there are none.
type inflight struct {
	mu   sync.Mutex
	n    int64
	none chan struct{} // closed when n becomes 0; nil while nobody waits
}

func (f *inflight) add() {
	f.mu.Lock()
	f.n++
	f.mu.Unlock()
}

func (f *inflight) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.none != nil {
		close(f.none)
		f.none = nil
	}
}

func (f *inflight) count() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// idle returns a channel that is closed when no tool runs.
func (f *inflight) idle() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.none == nil {
		f.none = make(chan struct{})
	}
	none := f.none
	if f.n == 0 {
		close(f.none)
		f.none = nil
	}
	return none
}
