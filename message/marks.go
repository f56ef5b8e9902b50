package message

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/store"
)

// Defaults of a [MarksConfig].
const (
	DefaultMarksAhead  = 2 * time.Second
	DefaultMarksWait   = 2 * time.Second
	DefaultMarksMaxAge = 24 * time.Hour
)

// maxAhead bounds MarksConfig.Ahead: for so long an agent may be deaf after a crash.
const maxAhead = time.Minute

// ErrMarksTaken says that another process has opened the marks of the same agent: the agent runs twice.
var ErrMarksTaken = errors.New("another process has opened the replay marks of this agent; run an agent once, or give each process a store of its own")

// ErrMarksVersion says that a newer version of Converge wrote the marks.
var ErrMarksVersion = errors.New("written by a newer version of Converge: upgrade, or delete the entry to refuse whatever was issued before the next start")

// MarksConfig configures [Marks]. Store, Network and Agent are required.
type MarksConfig struct {
	Store   store.Store // trusted for this: whoever can lower marks in it can have messages accepted twice
	Network string      // see CheckNetwork
	Agent   identity.ID // the agent that receives

	// Ahead is how far ahead of what was accepted the ceiling is written, in issue time; 0 means
	// DefaultMarksAhead. It is written again when 3/4 of it are used, so at most so often. It is also how much
	// of what was issued around a crash may be refused without having been accepted.
	Ahead time.Duration
	// Wait is how long Verify waits for a write that has to come first, before it refuses the message with
	// ErrNoMarks; 0 means DefaultMarksWait. Once that has happened, it refuses at once until the store
	// answers again.
	Wait time.Duration
	// MaxAge is how long ago marks may have been written to be trusted; 0 means DefaultMarksMaxAge. Older
	// ones may be those of a backup, so they count as lost.
	MaxAge time.Duration

	Logger *slog.Logger     // nil means slog.Default
	Now    func() time.Time // nil means time.Now
}

func (c *MarksConfig) validate() error {
	switch {
	case c.Store == nil:
		return errors.New("message.MarksConfig.Store: required")
	case c.Agent.IsZero():
		return errors.New("message.MarksConfig.Agent: required")
	case c.Ahead < 0, c.Wait < 0, c.MaxAge < 0:
		return errors.New("message.MarksConfig: Ahead, Wait and MaxAge must not be negative")
	case c.Ahead > maxAhead, c.Ahead > 0 && c.Ahead < 4*time.Millisecond:
		return fmt.Errorf("message.MarksConfig.Ahead: %v is not between 4ms and %v", c.Ahead, maxAhead)
	}
	if err := CheckNetwork(c.Network); err != nil {
		return fmt.Errorf("message.MarksConfig.Network: %w", err)
	}
	return nil
}

// Marks keep what a [Verifier] has accepted in a store, so that the one that follows it, in another
// process, accepts nothing a second time and yet takes what was issued while there was none.
//
// They do not write each message. They write a ceiling: no message is accepted that was issued later
// than a ceiling that is durable. After a crash everything up to the ceiling counts as accepted. After
// [Marks.Close] the windows of all senders are there as they were, and nothing is lost. A sender whose
// clock is ahead of the receiver's by more than MarksConfig.Ahead gets a ceiling of its own, so that it
// raises nobody else's.
//
// Everything that is written only ever forbids, and what a record forbade is given up only when another
// one forbids it. So it does not matter which of the last writes a crash has left undone. Where marks are
// missing, unreadable, another agent's, or older than MarksConfig.MaxAge, what was issued before Open is
// refused, and the log has one warning.
//
// Marks serve one Verifier: VerifierConfig.Marks ties them to it, Open has it accept messages, Close ends
// that. Two processes cannot both hold the marks of an agent: the later one takes them over, and the
// earlier one refuses messages from then on ([ErrMarksTaken]). All methods are safe for concurrent use.
type Marks struct {
	store   store.Store
	network string
	agent   identity.ID
	run     runID
	ahead   int64 // milliseconds
	wait    time.Duration
	maxAge  time.Duration
	log     *slog.Logger
	now     func() time.Time

	guard   *replayGuard   // of the Verifier; set before Open
	ended   chan struct{}  // closed when Close is done
	working sync.WaitGroup // the goroutine that writes; there is one only while there is something to write
	urgent  chan struct{}  // holds one: the ceiling of all is to be written
	near    atomic.Int64   // what was issued up to then needs no further look

	// Of the record of the ceiling; Open's, then the writing goroutine's, then Close's.
	revision store.Revision
	written  int64

	mu       sync.Mutex
	state    marksState
	writing  bool // there is a goroutine that writes
	touched  bool // there was one: else nothing was accepted
	taken    bool // another process has the marks
	all      ceiling
	extended int64 // when more was asked of it
	senders  map[identity.ID]*senderEntry
	own      int           // senders with a ceiling of their own
	queue    []identity.ID // senders whose own ceiling is to be written
	stuck    bool          // somebody has waited in vain for a ceiling of its own since one was written
	tidy     bool          // there may be records that say nothing any more
	trouble  error         // of the last write, if it has failed
	warned   time.Time     // when a failure was logged
	cancel   context.CancelFunc
	progress chan struct{} // closed, and replaced, when something changes for those who wait

	writes, failed, waits stat.Counter
}

type marksState uint8

const (
	marksNew marksState = iota
	marksOpening
	marksOpen
	marksClosed
)

// NewMarks checks the configuration and returns marks. It reads and writes nothing; see [Marks.Open].
func NewMarks(c MarksConfig) (*Marks, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m := &Marks{
		store:    c.Store,
		network:  c.Network,
		agent:    c.Agent,
		ahead:    cmp.Or(c.Ahead, DefaultMarksAhead).Milliseconds(),
		wait:     cmp.Or(c.Wait, DefaultMarksWait),
		maxAge:   cmp.Or(c.MaxAge, DefaultMarksMaxAge),
		log:      cmp.Or(c.Logger, slog.Default()).With("id", c.Agent.Short()),
		now:      orNow(c.Now),
		senders:  map[identity.ID]*senderEntry{},
		ended:    make(chan struct{}),
		urgent:   make(chan struct{}, 1),
		progress: make(chan struct{}),
	}
	rand.Read(m.run[:])
	m.near.Store(math.MinInt64)
	return m, nil
}

// attach ties m to the guard of a verifier, which accepts nothing until m is open.
func (m *Marks) attach(agent identity.ID, network string, g *replayGuard) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case agent != m.agent, network != m.network:
		return errors.New("message.VerifierConfig.Marks: they are another agent's, or another network's")
	case m.guard != nil:
		return errors.New("message.VerifierConfig.Marks: they serve another Verifier")
	}
	m.guard, g.marks, g.sealed = g, m, true
	return nil
}

// MarksStats counts what marks cost.
type MarksStats struct {
	Writes uint64 // changes of the store
	Failed uint64 // attempts that failed
	Waits  uint64 // messages that had to wait for a write
}

// Stats returns the counts so far.
func (m *Marks) Stats() MarksStats {
	return MarksStats{Writes: m.writes.Load(), Failed: m.failed.Load(), Waits: m.waits.Load()}
}

// Err returns why messages are refused with [ErrNoMarks] or soon may be: [ErrMarksTaken], which lasts, or the
// error of the last write, until one succeeds. It is nil if all is well.
func (m *Marks) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

// Close ends the acceptance of messages and writes down exactly what was accepted, so that the next
// Verifier loses nothing. It returns an error if some of that could not be written before ctx ended;
// then the next one refuses more than it would have to, and still nothing twice. Closing twice is fine.
// The store stays open.
func (m *Marks) Close(ctx context.Context) error {
	senders, floor, was := m.stop()
	if was == marksClosed {
		select {
		case <-m.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(m.ended)
	m.working.Wait()
	var err error
	switch {
	case was != marksOpen:
	case m.touched:
		err = m.writeExactly(ctx, senders, floor)
	case m.now().UnixMilli()-m.written > m.maxAge.Milliseconds()/2: // nothing was accepted, but they grow old
		err = m.putCeiling(ctx, m.all.durable)
	}
	if err != nil {
		return fmt.Errorf("close replay marks of agent %s: %w", m.agent.Short(), err)
	}
	return nil
}

// stop ends the acceptance of messages and the writing of ceilings, and returns what the guard knows.
func (m *Marks) stop() (senders []senderMark, floor int64, was marksState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was = m.state
	if m.guard != nil && was != marksClosed {
		senders, floor = m.guard.seal(m.now().UnixMilli())
	}
	m.state = marksClosed
	m.near.Store(math.MinInt64)
	if m.cancel != nil {
		m.cancel()
	}
	m.announce()
	return senders, floor, was
}

// announce wakes those who wait. It wants mu held.
func (m *Marks) announce() {
	close(m.progress)
	m.progress = make(chan struct{})
}
