package task

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/listeners"
	"github.com/converge-agents/converge/store"
)

// Config is what a [Manager] is made of.
type Config struct {
	Store store.Store // where the tasks are, under the keys that start with "task/". Required.

	// Verifier tells who has signed what is submitted, how tasks are ended, and what is read from the store.
	// What it does not vouch for is refused with [ErrUnsigned] or [ErrForged]. Required, except:
	Verifier *Verifier
	// UnsignedUnsafe takes everybody's word: whoever calls this manager, or writes to its store, can submit and
	// end tasks in anybody's name. The manager logs a warning. It is for tests, and for stores that belong to
	// one program alone.
	UnsignedUnsafe bool

	// Member reports whether an agent is a member of a pool; pool.Manager.IsMember is one. Only members see,
	// claim, end and submit the tasks of a pool. nil means that there are no members. It has to be quick and
	// safe for concurrent use.
	Member func(pool string, agent identity.ID) bool

	// Now is the clock that goes on from when the manager is made, nil for the computer's monotonic one;
	// timers follow that in any case. A store with a clock says what the time is.
	Now             func() time.Time
	DefaultClaimTTL time.Duration // for tasks that name none and are not signed; 0 means DefaultClaimTTL
	MaxPending      int           // pending tasks beyond which Submit returns ErrFull, while attached; 0 means 1,000,000
	Logger          *slog.Logger  // nil means slog.Default()

	// Retention is how long a task is kept after its end, and with it its ID and idempotency key; while
	// somebody is attached, it is deleted then. 0 means 7 days, Forever that it stays.
	Retention time.Duration
	// DeadRetention is the same for dead letters; 0 means Forever.
	DeadRetention time.Duration
}

// Forever is a time that never ends, for Config.Retention.
const Forever time.Duration = math.MaxInt64

// DefaultRetention is how long tasks are kept after their end.
const DefaultRetention = 7 * 24 * time.Hour

// Manager is one program's way to the tasks on a store. All methods are safe for concurrent use. Those
// that take an argument refuse a wrong one with [ErrInvalid].
//
// A Manager keeps nothing that the store does not have, and starts nothing, until somebody calls
// [Manager.Attach]. From then on it follows the store, knows the tasks that have not ended, and does
// what is due.
type Manager struct {
	store      store.Store
	verifier   *Verifier // nil for an unsafe one
	member     func(pool string, agent identity.ID) bool
	clock      *clock
	defaultTTL time.Duration
	maxPending int
	logger     *slog.Logger
	counts     counts
	unreadable unreadable
	strangers  strangers
	fresh      sync.Map      // by ID: records of new tasks that are under way to the store, and not in the index yet
	keep, dead time.Duration // how long tasks and dead letters are kept
	attic      *attic
	health     health

	index   atomic.Pointer[index] // nil unless the store is being followed
	alarm   atomic.Int64          // when expireDue wakes up; 0 for never, and while it finds that out
	earlier chan struct{}         // tells it that something is due before

	listeners listeners.List[Task]

	running sync.WaitGroup
	stop    context.CancelFunc
}

// New makes a manager; it starts nothing.
func New(c Config) (*Manager, error) {
	m := &Manager{
		store:      c.Store,
		verifier:   c.Verifier,
		member:     c.Member,
		defaultTTL: cmp.Or(c.DefaultClaimTTL, DefaultClaimTTL),
		keep:       cmp.Or(c.Retention, DefaultRetention),
		dead:       cmp.Or(c.DeadRetention, Forever),
		maxPending: cmp.Or(c.MaxPending, 1000000),
		logger:     c.Logger,
		earlier:    make(chan struct{}, 1),
		strangers:  strangers{news: make(chan struct{}, 1)},
		attic:      newAttic(),
	}
	if m.store == nil {
		return nil, errors.New("task manager: Store is not set")
	}
	if m.verifier == nil && !c.UnsignedUnsafe {
		return nil, errors.New("task manager: Verifier is not set, so that nobody's signature could be checked; without signatures it is for UnsignedUnsafe to say so")
	}
	if m.verifier != nil && c.UnsignedUnsafe {
		return nil, errors.New("task manager: UnsignedUnsafe is set, and so is Verifier, which would not be asked")
	}
	if err := checkTTL("DefaultClaimTTL", m.defaultTTL); err != nil {
		return nil, fmt.Errorf("task manager: %w", err)
	}
	if m.maxPending < 0 {
		return nil, fmt.Errorf("task manager: MaxPending is %d", m.maxPending)
	}
	if m.keep < 0 || m.dead < 0 {
		return nil, fmt.Errorf("task manager: Retention is %v and DeadRetention %v; they are 0 or more", c.Retention, c.DeadRetention)
	}
	m.clock = newClock(c.Now, m.store)
	if m.logger == nil {
		m.logger = slog.Default()
	}
	if c.UnsignedUnsafe {
		m.logger.Warn("UNSAFE: task manager takes submissions and results without signatures")
	}
	return m, nil
}

// Stats counts what went through one manager since it was made.
type Stats struct {
	Submitted, Claimed, Completed, Failed, Cancelled uint64

	Retried      uint64 // attempts that failed or ran out with others left
	DeadLettered uint64 // tasks that failed since their attempts were used up; they are among Failed
	Requeued     uint64 // dead letters that were given another round of attempts
	Pruned       uint64 // tasks that were deleted when their Retention was over

	Expired   uint64 // claims that ended since they ran out, as far as this manager was the one to end them
	Conflicts uint64 // changes that somebody else came before; those that still applied were tried again
	Corrupt   uint64 // unreadable records that were met and skipped, or that are not signed by those whom they name
}

type counts struct {
	submitted, claimed, completed, failed, cancelled, expired, conflicts, corrupt atomic.Uint64
	retried, dead, requeued, pruned                                               atomic.Uint64
}

// Stats returns the counts of this moment.
func (m *Manager) Stats() Stats {
	c := &m.counts
	return Stats{
		Submitted: c.submitted.Load(), Claimed: c.claimed.Load(), Completed: c.completed.Load(),
		Failed: c.failed.Load(), Cancelled: c.cancelled.Load(), Expired: c.expired.Load(),
		Conflicts: c.conflicts.Load(), Corrupt: c.corrupt.Load(),
		Retried: c.retried.Load(), DeadLettered: c.dead.Load(), Requeued: c.requeued.Load(), Pruned: c.pruned.Load(),
	}
}

// Submit stores a new pending task and returns it. The task keeps nothing of the Spec's memory. It
// returns [ErrUnsigned] or [ErrForged] if the Submitter has not signed the Spec, see [Signer.SignSpecs], and
// [ErrExists] if there is a task of that ID, whatever its state. With an idempotency key that
// holds for other content only; otherwise it returns that task, with Existed set.
func (m *Manager) Submit(ctx context.Context, s Spec) (Task, error) {
	if s.ID == "" {
		s.ID = s.NewID()
	}
	r, existed, err := m.submit(ctx, &s)
	if err != nil {
		return Task{}, taskError("submit", s.ID, err)
	}
	if !existed {
		m.counts.submitted.Add(1)
	}
	t := r.copy()
	t.Existed = existed
	return t, nil
}

func (m *Manager) submit(ctx context.Context, given *Spec) (r *record, existed bool, err error) {
	s, err := given.checked(m.defaultTTL)
	if err != nil {
		return nil, false, err
	}
	if !m.admits(s.Pool, s.Submitter) {
		return nil, false, ErrNotMember
	}
	now := m.clock.now()
	r = newRecord(s, now)
	if err = m.verifySubmission(r); err != nil {
		return nil, false, err
	}
	if err = m.admit(r, now); err == nil {
		err = m.write(ctx, r, nil)
	} else if s.IdempotencyKey == "" {
		return nil, false, err
	}
	switch {
	case err == nil:
		return r, false, nil
	case s.IdempotencyKey != "":
		return m.submittedBefore(ctx, r, given.ClaimTTL == 0, err)
	case errors.Is(err, store.ErrConflict):
		err = ErrExists
	}
	return nil, false, err
}

// admit refuses a new task that would fail at once, or that there is no room for.
func (m *Manager) admit(r *record, now int64) error {
	if r.overdue(now) {
		return invalid("Deadline %v is over", r.spec.Deadline)
	}
	if m.isFull() {
		return fmt.Errorf("%w: %d", ErrFull, m.maxPending)
	}
	return nil
}

// submittedBefore returns the task that was submitted with the same idempotency key, if there is one, and
// otherwise why a new one could not be. The manager's default counts for what is submitted without a TTL,
// whichever it was.
func (m *Manager) submittedBefore(ctx context.Context, r *record, anyTTL bool, cause error) (*record, bool, error) {
	if errors.Is(cause, store.ErrClosed) || ctx.Err() != nil {
		return nil, false, cause
	}
	old, err := m.read(ctx, r.spec.ID)
	if errors.Is(err, ErrNotFound) {
		return nil, false, cause
	}
	if err != nil {
		return nil, false, err
	}
	s := r.spec
	if anyTTL {
		s.ClaimTTL = old.spec.ClaimTTL
	}
	if !bytes.Equal(s.submission(), old.encoded) {
		return nil, false, fmt.Errorf("%w: with the same idempotency key and other content", ErrExists)
	}
	return old, true, nil
}

func (m *Manager) isFull() bool {
	x := m.index.Load()
	return x != nil && x.holds(m.maxPending)
}

// NewID returns the ID that a task of the Spec gets if ID is empty: that of its idempotency key, or a new
// one.
func (s *Spec) NewID() string {
	if s.IdempotencyKey != "" {
		return IDForKey(s.Submitter, s.IdempotencyKey)
	}
	return NewID()
}

// NewID returns an ID for a task: 16 random bytes in hexadecimal.
func NewID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// Get returns a task as the store has it.
func (m *Manager) Get(ctx context.Context, id string) (Task, error) {
	r, err := m.read(ctx, id)
	if err != nil {
		return Task{}, taskError("get", id, err)
	}
	return r.copy(), nil
}

// Claim assigns a pending task to the profile's agent, for as long as the task's ClaimTTL. Of all who
// ask, one wins; the others get [ErrNotPending]. A task that the profile does not see is refused with
// [ErrNotRouted], one that has ended with [ErrTerminal].
func (m *Manager) Claim(ctx context.Context, id string, p Profile) (_ Claim, t Task, _ error) {
	if p.Agent.IsZero() {
		return Claim{}, Task{}, taskError("claim", id, invalid("Profile.Agent is not set"))
	}
	lapsed := false
	r, err := m.change(ctx, id, func(r *record, now int64) (*record, error) {
		lapsed = r.lapsed(now)
		return m.ofMember(p.Agent)(r.assign(&p, now))
	})
	if err != nil {
		return Claim{}, Task{}, taskError("claim", id, err)
	}
	m.counts.claimed.Add(1)
	if lapsed {
		m.counts.expired.Add(1)
	}
	if lapsed {
		m.counts.retried.Add(1)
	}
	r.copyTo(&t)
	return m.claimOf(r), t, nil
}

func (m *Manager) claimOf(r *record) Claim {
	c := Claim{TaskID: r.spec.ID, Agent: r.claimant, Epoch: r.epoch, Expires: m.clock.local(r.expires)}
	if m.verifier != nil {
		c.Submission = digestOf(r.encoded)
	}
	return c
}

// Now returns the time by which tasks are timed: the store's, if it has a clock.
func (m *Manager) Now() time.Time { return cose.ToTime(m.clock.now()) }

// Remaining returns how long a claim still lasts.
func (m *Manager) Remaining(c Claim) time.Duration {
	return c.Expires.Sub(m.clock.anchor) - m.clock.elapsed()
}

// Heartbeat lets a claim last for the task's ClaimTTL from now, though not beyond its deadline, and
// returns it with the new expiry. It returns [ErrClaimLost] or [ErrTerminal] as Report does.
func (m *Manager) Heartbeat(ctx context.Context, c Claim) (Claim, error) {
	r, err := m.change(ctx, c.TaskID, func(r *record, now int64) (*record, error) { return m.ofMember(c.Agent)(r.extend(&c, now)) })
	if err != nil {
		return Claim{}, taskError("heartbeat for", c.TaskID, err)
	}
	return m.claimOf(r), nil
}

// End ends a task that the claim's agent holds: it completes it, or ends an attempt at it. After a failure
// that leaves attempts, the task is pending again when the pause of its Backoff is over; otherwise it has
// failed, as a dead letter if Spec.MaxAttempts is set.
//
// End returns [ErrClaimLost] if the claim has expired or the task went to another claim, [ErrTerminal] if the
// task has ended under this claim (it was ended before, or cancelled), and [ErrUnsigned] or [ErrForged] if the
// agent has not signed the ending; see [Signer.SignEndings].
func (m *Manager) End(ctx context.Context, e Ending) (t Task, _ error) {
	r, err := m.end(ctx, &e)
	if err != nil {
		return Task{}, taskError(endVerb(e.Status), e.Claim.TaskID, err)
	}
	if r.status == Completed {
		m.counts.completed.Add(1)
	} else {
		m.countFailure(r)
	}
	r.copyTo(&t)
	return t, nil
}

func endVerb(s Status) string {
	if s == Completed {
		return "report"
	}
	return "fail"
}

func (m *Manager) end(ctx context.Context, e *Ending) (*record, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	e.Result, e.Proof = bytes.Clone(e.Result), bytes.Clone(e.Proof)
	o := e.outcome()
	var verified []byte // the submission that the ending has been verified for
	return m.change(ctx, e.Claim.TaskID, func(r *record, now int64) (*record, error) {
		next, err := m.ofMember(e.Claim.Agent)(r.end(e, o, now))
		if err == nil && !bytes.Equal(verified, r.encoded) {
			if err = m.verifyEnding(r, e, o); err == nil {
				verified = r.encoded
			}
		}
		return next, err
	})
}

// Report is [Manager.End] for a task that was done, on a manager that wants no signature.
func (m *Manager) Report(ctx context.Context, c Claim, result []byte, mediaType string) (Task, error) {
	return m.End(ctx, Completion(c, result, mediaType))
}

// Fail is [Manager.End] for an attempt that failed, on a manager that wants no signature.
func (m *Manager) Fail(ctx context.Context, c Claim, reason string) (Task, error) {
	return m.End(ctx, Failure(c, reason))
}

// FailPermanently is [Manager.Fail] for a task that nobody can do: it has failed, whatever attempts it has
// left, and is no dead letter.
func (m *Manager) FailPermanently(ctx context.Context, c Claim, reason string) (Task, error) {
	e := Failure(c, reason)
	e.Permanent = true
	return m.End(ctx, e)
}

// Requeue makes a dead letter pending again, with all its attempts before it. That is the one way back
// for a task that has ended. Only its submitter may: others get [ErrNotSubmitter]. A task that is no dead
// letter is refused with [ErrNotDead], and one whose deadline is over with [ErrTerminal].
func (m *Manager) Requeue(ctx context.Context, id string, by identity.ID) (Task, error) {
	r, err := m.change(ctx, id, func(r *record, now int64) (*record, error) { return r.requeue(by, now) })
	if err != nil {
		return Task{}, taskError("requeue", id, err)
	}
	m.counts.requeued.Add(1)
	return r.copy(), nil
}

// Release gives a task back before its claim expires: it is pending again. The errors are those of
// Report.
func (m *Manager) Release(ctx context.Context, c Claim) (Task, error) {
	r, err := m.change(ctx, c.TaskID, func(r *record, now int64) (*record, error) { return r.release(&c, now) })
	if err != nil {
		return Task{}, taskError("release", c.TaskID, err)
	}
	return r.copy(), nil
}

// Cancel ends a task that is pending or assigned. Only its submitter may: others get [ErrNotSubmitter].
// An agent that works on it learns so from its next call.
func (m *Manager) Cancel(ctx context.Context, id string, by identity.ID) (Task, error) {
	r, err := m.change(ctx, id, func(r *record, now int64) (*record, error) { return r.cancel(by, now) })
	if err != nil {
		return Task{}, taskError("cancel", id, err)
	}
	m.counts.cancelled.Add(1)
	return r.copy(), nil
}

// Visible returns the pending tasks that a profile sees, at most limit of them: the highest priority
// first, and of one priority the oldest. While somebody is attached it answers from memory, at a cost
// that does not depend on tasks that ask for other capabilities; otherwise it reads all tasks of the
// store, and if it cannot, logs that and returns what it has.
func (m *Manager) Visible(p Profile, limit int) []Task {
	var tasks []Task
	for _, r := range m.visible(&p, limit) {
		tasks = append(tasks, r.copy())
	}
	return tasks
}

func (m *Manager) visible(p *Profile, limit int) []*record {
	if limit <= 0 {
		return nil
	}
	member := *p
	member.Pools = m.poolsOf(p)
	p = &member
	now := m.clock.now()
	x := m.index.Load()
	if x == nil {
		return m.survey(now).visible(p, limit, now)
	}
	return x.visible(p, limit, now)
}

// survey makes an index of what the store has. Claims that nobody has released are as good as released.
func (m *Manager) survey(now int64) *index {
	x := newIndex()
	for e, err := range m.store.List(context.Background(), keyPrefix) {
		if err != nil {
			m.logger.Error("tasks cannot be listed", "error", err)
			break
		}
		r := m.decode(e)
		if r != nil && r.lapsed(now) {
			r = r.expire(now)
			r.revision = e.Revision
		}
		if r != nil && !r.status.Terminal() {
			x.put(r)
		}
	}
	x.waken(now)
	return x
}

// change takes a task through a transition. What this program knows of the task may be old, so a
// refusal counts only if it is based on what the store has, and an acceptance only if the store agrees
// that it has not moved on.
func (m *Manager) change(ctx context.Context, id string, step func(*record, int64) (*record, error)) (*record, error) {
	for old := m.recall(id); ; old = nil {
		fresh := old == nil
		if fresh {
			var err error
			if old, err = m.read(ctx, id); err != nil {
				return nil, err
			}
		}
		next, err := step(old, m.clock.now())
		if err != nil && fresh {
			return nil, err
		}
		if err == nil {
			if err = m.write(ctx, next, old); err == nil {
				return next, nil
			}
			if !errors.Is(err, store.ErrConflict) {
				return nil, err
			}
			m.counts.conflicts.Add(1)
		}
	}
}

// recall returns what this program knows of a task that has not ended; nil if nothing.
func (m *Manager) recall(id string) *record {
	if x := m.index.Load(); x != nil {
		return x.book.get(id)
	}
	return nil
}

// read gets a task from the store.
func (m *Manager) read(ctx context.Context, id string) (*record, error) {
	if err := checkName("ID", id); err != nil {
		return nil, err
	}
	e, err := m.store.Get(ctx, store.Key(folder, id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r, err := m.open(e)
	if err != nil {
		return nil, err
	}
	m.learn(r)
	return r, nil
}

// write stores a record in place of old, which is nil for a new task, and gives it its revision.
func (m *Manager) write(ctx context.Context, r, old *record) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = r.append((*buf)[:0])
	var rev store.Revision
	if old != nil {
		rev = old.revision
	}
	r.leave()
	defer r.returned()
	if old == nil {
		m.fresh.Store(r.spec.ID, r)
		defer m.fresh.CompareAndDelete(r.spec.ID, r)
	}
	written, err := m.store.Put(ctx, r.key, *buf, rev)
	if err != nil {
		return err
	}
	r.arrived(written)
	m.learn(r)
	return nil
}

// learn keeps the index up to date with what this program has just read or written.
func (m *Manager) learn(r *record) {
	if x := m.index.Load(); x != nil {
		x.put(r)
		m.checkAlarm(r)
	}
}

// decode returns nil for a record that cannot be read, and sees to it that somebody learns of it.
func (m *Manager) decode(e store.Entry) *record {
	r, err := m.open(e)
	if err == nil && m.verifier == nil {
		return r
	}
	strange := m.strangers.note(e.Key, err)
	if err != nil && m.unreadable.add(e.Key, e.Revision) {
		m.counts.corrupt.Add(1)
		m.logSkipped(strange, err)
	}
	return r
}

func (m *Manager) logSkipped(strange bool, err error) {
	if strange {
		m.logger.Warn("task record is skipped until the agent that has signed it is known", "error", err)
	} else {
		m.logger.Error("task record is skipped", "error", err)
	}
}

// open reads a record of the store, and believes it only if those have signed it that it names. Its errors
// wrap ErrRecord.
func (m *Manager) open(e store.Entry) (*record, error) {
	r, err := decodeRecord(e)
	if err != nil {
		return nil, err
	}
	if err := m.verifyRecord(r); err != nil {
		return nil, fmt.Errorf("%w at %.80q: %w", ErrRecord, e.Key, err)
	}
	r.bound(m.clock.now())
	return r, nil
}

// unreadable remembers records that could not be read, so that each is counted and logged once.
type unreadable struct {
	mu    sync.Mutex
	known map[string]store.Revision // by key
}

// maxUnreadable bounds what is remembered; beyond it, records may be counted and logged again.
const maxUnreadable = 4096

// add tells whether this record is a new one.
func (u *unreadable) add(key string, rev store.Revision) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known[key] == rev {
		return false
	}
	if u.known == nil || len(u.known) >= maxUnreadable {
		u.known = map[string]store.Revision{}
	}
	u.known[key] = rev
	return true
}

func taskError(op, id string, err error) error {
	return fmt.Errorf("%s task %.80q: %w", op, id, err)
}
