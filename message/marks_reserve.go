package message

import (
	"context"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

const (
	// ownAhead is how far ahead the ceiling of one sender is written, in milliseconds. It is long, so that a
	// member that sets its clock ahead causes few writes; it pays with its own messages after a crash.
	ownAhead = 30_000
	// maxOwn bounds the senders with a ceiling of their own. Beyond, senders whose clocks are ahead are
	// refused.
	maxOwn = 1024
)

// maxStep bounds how far ahead the ceiling of all is written while a backlog is worked off faster than it
// came about, in MarksConfig.Ahead.
const maxStep = 16

// ceiling is an issue time up to which messages count as accepted after a crash, so that until then
// they may be accepted. Times are in milliseconds.
type ceiling struct {
	durable int64
	want    int64 // what it is to be
	step    int64 // how far ahead of a message that is
	overdue bool  // somebody has waited in vain for want
}

// scarce reports whether less than a quarter of what was asked for last is left.
func (c *ceiling) scarce(issued int64) bool { return issued > c.want-c.step/4 }

func (c *ceiling) ask(issued, want int64) { c.want, c.step = want, want-issued }

// senderEntry is what is known of the record of one sender.
type senderEntry struct {
	ceiling
	revision store.Revision // 0 if there is none
	top      int64          // the issue time above which the record says nothing
	own      bool           // the ceiling is in use
	queued   bool           // it is to be written
}

// cover sees to it that a message that was issued then counts as accepted after a crash, before it is
// accepted. Nearly always that is so already; else it waits for a write.
func (m *Marks) cover(sender identity.ID, issued, now int64) Reason {
	if issued <= m.near.Load() {
		return 0
	}
	return m.reserve(sender, issued, now)
}

func (m *Marks) reserve(sender identity.ID, issued, now int64) Reason {
	m.mu.Lock()
	defer m.mu.Unlock()
	var timeout <-chan time.Time
	for {
		if m.state != marksOpen {
			return ErrNoMarks
		}
		c := m.request(sender, issued, now)
		if c != nil && issued <= c.durable {
			return 0
		}
		if c == nil || c.overdue || m.taken || m.stuck && c != &m.all {
			return ErrNoMarks
		}
		if timeout == nil {
			m.waits.Inc()
			timer := time.NewTimer(m.wait)
			defer timer.Stop()
			timeout = timer.C
		}
		if !m.await(timeout) {
			c.overdue, m.stuck = true, m.stuck || c != &m.all
		}
	}
}

// await waits for news and reports whether there were any before the timeout. It wants mu held, and lets
// go of it meanwhile.
func (m *Marks) await(timeout <-chan time.Time) bool {
	progress := m.progress
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-progress:
		return true
	case <-timeout:
		return false
	}
}

// request returns the ceiling that has to cover what a sender issued then, and has it raised in time. It
// returns nil if there can be none. It wants mu held.
func (m *Marks) request(sender identity.ID, issued, now int64) *ceiling {
	ahead := issued > now+m.ahead
	if ahead && issued > m.all.durable {
		return m.requestOwn(sender, issued)
	}
	if !ahead && m.all.scarce(issued) {
		m.extend(issued, now)
		m.work(true)
	}
	return &m.all
}

// extend asks for a higher ceiling of all: a step above a message, and a longer step if the last one was
// used up in no time, but no more than usual above the present. It wants mu held.
func (m *Marks) extend(issued, now int64) {
	step := m.ahead
	if now-m.extended < m.ahead/2 {
		step = min(2*m.all.step, maxStep*m.ahead)
	}
	m.extended = now
	m.all.ask(issued, min(issued+max(step, m.ahead), max(issued, now)+m.ahead))
}

// requestOwn is request for a sender whose clock is ahead.
func (m *Marks) requestOwn(sender identity.ID, issued int64) *ceiling {
	entry := m.senders[sender]
	if entry == nil || !entry.own {
		if m.own >= maxOwn {
			return nil
		}
		if entry == nil {
			entry = &senderEntry{}
			m.senders[sender] = entry
		}
		m.own++
		entry.own = true
	}
	if entry.scarce(issued) {
		entry.ask(issued, max(issued+ownAhead, entry.top))
		if !entry.queued {
			entry.queued = true
			m.queue = append(m.queue, sender)
		}
		m.work(false)
	}
	return &entry.ceiling
}

// work has somebody write. It wants mu held.
func (m *Marks) work(urgent bool) {
	if m.writing && urgent {
		select {
		case m.urgent <- struct{}{}:
		default:
		}
	}
	if m.writing || m.taken || m.state != marksOpen {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.writing, m.touched, m.cancel = true, true, cancel
	m.working.Go(func() {
		defer cancel()
		m.write(ctx)
	})
}
