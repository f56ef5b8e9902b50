package message

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
)

const (
	// windowSize is how far behind the highest sequence number of a session a message may come.
	windowSize = 1024
	// maxSessions is how many sessions of one sender are live at once. One is live as long as a
	// message of it could still be fresh.
	maxSessions = 16
)

// window remembers which of the last windowSize sequence numbers of a session were accepted, as in
// RFC 4303, section 3.4.3.
type window struct {
	highest uint64
	bits    [windowSize / 64]uint64
}

func (w *window) seen(seq uint64) bool {
	if seq > w.highest {
		return false
	}
	return w.highest-seq >= windowSize || w.bits[seq/64%uint64(len(w.bits))]&(1<<(seq%64)) != 0
}

func (w *window) mark(seq uint64) {
	if seq > w.highest {
		w.advance(seq)
	}
	w.bits[seq/64%uint64(len(w.bits))] |= 1 << (seq % 64)
}

// advance clears the bits of the numbers that enter the window.
func (w *window) advance(seq uint64) {
	if seq-w.highest >= windowSize {
		w.bits = [windowSize / 64]uint64{}
	} else {
		for n := seq; n != w.highest; n-- { // downwards, so that the last number does not overflow
			w.bits[n/64%uint64(len(w.bits))] &^= 1 << (n % 64)
		}
	}
	w.highest = seq
}

// session is one run of a sender.
type session struct {
	number uint64
	latest int64 // the latest issue time accepted, in milliseconds
	floor  int64 // milliseconds: what was issued earlier may have been accepted before the window began
	window window
}

// senderState is what a receiver remembers of one sender.
type senderState struct {
	sessions []*session
	latest   int64 // the latest issue time accepted in any session, in milliseconds
	floor    int64 // the floor of its next session, in milliseconds
}

func (s *senderState) find(number uint64) *session {
	for _, known := range s.sessions {
		if known.number == number {
			return known
		}
	}
	return nil
}

// replayGuard decides whether a message was accepted before. Its memory is bounded: at most maxSenders
// senders, each with at most maxSessions sessions. It forgets a session only when its messages are too
// old to pass the freshness check, and then remembers a floor: a session whose window begins later, and
// be it the same one again, takes nothing that was issued below. So even a clock that is set back brings
// no old message to life. The first floor is the moment at which the guard was made, or what marks say.
type replayGuard struct {
	marks *Marks // nil if what was accepted is forgotten when the process ends

	mu         sync.Mutex
	senders    map[identity.ID]*senderState
	maxSenders int
	lifetime   int64 // milliseconds after its issue during which a message can be fresh
	floor      int64 // milliseconds: what an unknown sender issued earlier is not taken
	nextSweep  int64
	sealed     bool // nothing is accepted: the marks are not open
}

func newReplayGuard(start time.Time, lifetime time.Duration, maxSenders int) replayGuard {
	return replayGuard{
		senders:    map[identity.ID]*senderState{},
		maxSenders: maxSenders,
		lifetime:   lifetime.Milliseconds(),
		floor:      start.UnixMilli(),
	}
}

// check returns why e must not be accepted, or 0. It changes nothing.
func (g *replayGuard) check(e *envelope) Reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusal(e)
}

// accept is check and, if e may be accepted, remembers it. Only frames with a valid signature come here.
// With marks it may wait until they are written.
func (g *replayGuard) accept(e *envelope, now int64) Reason {
	if g.marks != nil {
		if reason := g.marks.cover(e.sender, e.issued, now); reason != 0 {
			return reason
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if reason := g.refusal(e); reason != 0 {
		return reason
	}
	state := g.senders[e.sender]
	if state == nil {
		if !g.makeRoom(now) {
			return ErrTooManySessions
		}
		state = &senderState{floor: g.floor}
		g.senders[e.sender] = state
	}
	s := state.find(e.session)
	if s == nil {
		g.forgetStale(state, now)
		if len(state.sessions) >= maxSessions {
			return ErrTooManySessions
		}
		s = &session{number: e.session, floor: state.floor}
		state.sessions = append(state.sessions, s)
	}
	s.window.mark(e.sequence)
	s.latest = max(s.latest, e.issued)
	state.latest = max(state.latest, e.issued)
	return 0
}

func (g *replayGuard) refusal(e *envelope) Reason {
	if g.sealed {
		return ErrNoMarks
	}
	state := g.senders[e.sender]
	if state == nil {
		if e.issued < g.floor {
			return ErrStaleSession
		}
		return 0
	}
	if s := state.find(e.session); s != nil {
		if e.issued < s.floor || s.window.seen(e.sequence) {
			return ErrReplayed
		}
		return 0
	}
	if e.issued <= state.latest {
		return ErrStaleSession
	}
	return 0
}

// forgetStale drops the sessions of a sender whose messages can no longer be fresh.
func (g *replayGuard) forgetStale(state *senderState, now int64) {
	live := state.sessions[:0]
	for _, s := range state.sessions {
		if s.latest+g.lifetime >= now {
			live = append(live, s)
		} else {
			state.floor = max(state.floor, s.latest+1)
		}
	}
	clear(state.sessions[len(live):])
	state.sessions = live
}

// sweepInterval spaces the sweeps that a full table costs, in milliseconds.
const sweepInterval = 1000

// makeRoom reports whether another sender fits, after dropping senders that can no longer matter.
func (g *replayGuard) makeRoom(now int64) bool {
	if len(g.senders) < g.maxSenders {
		return true
	}
	if now < g.nextSweep {
		return false
	}
	g.nextSweep = now + sweepInterval
	for id, state := range g.senders {
		if state.latest+g.lifetime < now {
			g.floor = max(g.floor, state.latest+1)
			delete(g.senders, id)
		}
	}
	return len(g.senders) < g.maxSenders
}

// seal ends acceptance, and returns the senders whose messages can still be fresh, those heard last
// first. What any other sender may have had accepted was issued before the floor.
func (g *replayGuard) seal(now int64) (senders []senderMark, floor int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sealed = true
	floor = g.floor
	for id, state := range g.senders {
		if state.latest+g.lifetime < now {
			floor = max(floor, state.latest+1)
		} else {
			senders = append(senders, senderMark{id, *state})
		}
	}
	slices.SortFunc(senders, laterFirst)
	return senders, floor
}

// restore is the reverse: it takes over what an earlier guard knew of senders, of whom nothing issued
// before the floor is taken, and begins to accept.
func (g *replayGuard) restore(senders []senderMark, floor int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.floor, g.sealed = floor, false
	slices.SortFunc(senders, laterFirst)
	for i, m := range senders {
		if i == g.maxSenders { // the configuration has changed
			g.floor = max(floor, m.state.latest+1)
			return
		}
		g.senders[m.sender] = m.state.above(floor)
	}
}

// above returns the state as of a sender of whom nothing issued before floor is taken.
func (s senderState) above(floor int64) *senderState {
	s.floor, s.latest = max(s.floor, floor), max(s.latest, floor-1)
	for _, known := range s.sessions {
		known.floor = max(known.floor, floor)
	}
	return &s
}

func laterFirst(a, b senderMark) int { return cmp.Compare(b.state.latest, a.state.latest) }
