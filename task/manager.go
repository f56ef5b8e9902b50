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
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// Config is what a [Manager] is made of.
type Config struct {
	Store store.Store // where the tasks are, under the keys that start with "task/". Required.

	// Member reports whether an agent is a member of a pool; pool.Manager.IsMember is one. Only members see,
	// claim, end and submit the tasks of a pool. nil means that there are no members. It has to be quick and
	// safe for concurrent use.
	Member func(pool string, agent identity.ID) bool

	Now             func() time.Time // nil means time.Now; timers follow the real clock in any case
	DefaultClaimTTL time.Duration    // for tasks that name none; 0 means 30 s
	MaxPending      int              // pending tasks beyond which Submit returns ErrFull, while attached; 0 means 1,000,000
	Logger          *slog.Logger     // nil means slog.Default()
}

// Manager is one program's way to the tasks on a store. All methods are safe for concurrent use. Those
// that take an argument refuse a wrong one with [ErrInvalid].
//
// A Manager keeps nothing that the store does not have, and starts nothing, until somebody calls
// [Manager.Attach]. From then on it follows the store, knows the tasks that have not ended, and does
// what is due.
type Manager struct {
	store      store.Store
	member     func(pool string, agent identity.ID) bool
	now        func() time.Time
	defaultTTL time.Duration
	maxPending int
	logger     *slog.Logger
	counts     counts
	unreadable unreadable

	mu      sync.Mutex            // for what is in index, except for the book, and for:
	alarm   int64                 // when expireDue wakes up; 0 for never
	earlier chan struct{}         // tells it that something is due before
	index   atomic.Pointer[index] // nil unless the store is being followed

	deliver   sync.Mutex // held while listeners are told
	listeners []*listener

	life    sync.Mutex // held while the goroutines start and stop
	running sync.WaitGroup
	stop    context.CancelFunc
}

// New makes a manager; it starts nothing.
func New(c Config) (*Manager, error) {
	m := &Manager{
		store:      c.Store,
		member:     c.Member,
		now:        c.Now,
		defaultTTL: cmp.Or(c.DefaultClaimTTL, 30*time.Second),
		maxPending: cmp.Or(c.MaxPending, 1000000),
		logger:     c.Logger,
		earlier:    make(chan struct{}, 1),
	}
	if m.store == nil {
		return nil, errors.New("task manager: Store is not set")
	}
	if err := checkTTL("DefaultClaimTTL", m.defaultTTL); err != nil {
		return nil, fmt.Errorf("task manager: %w", err)
	}
	if m.maxPending < 0 {
		return nil, fmt.Errorf("task manager: MaxPending is %d", m.maxPending)
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.logger == nil {
		m.logger = slog.Default()
	}
	return m, nil
}

// Stats counts what went through one manager since it was made.
type Stats struct {
	Submitted, Claimed, Completed, Failed, Cancelled uint64

	Expired   uint64 // claims that ended since they ran out, as far as this manager was the one to end them
	Conflicts uint64 // changes that somebody else came before; those that still applied were tried again
	Corrupt   uint64 // unreadable records that were met and skipped
}

type counts struct {
	submitted, claimed, completed, failed, cancelled, expired, conflicts, corrupt atomic.Uint64
}

// Stats returns the counts of this moment.
func (m *Manager) Stats() Stats {
	c := &m.counts
	return Stats{
		Submitted: c.submitted.Load(), Claimed: c.claimed.Load(), Completed: c.completed.Load(),
		Failed: c.failed.Load(), Cancelled: c.cancelled.Load(), Expired: c.expired.Load(),
		Conflicts: c.conflicts.Load(), Corrupt: c.corrupt.Load(),
	}
}

// Submit stores a new pending task and returns it. The task keeps nothing of the Spec's memory. It
// returns [ErrExists] if there is a task of that ID, whatever its state.
func (m *Manager) Submit(ctx context.Context, s Spec) (Task, error) {
	if s.ID == "" {
		s.ID = NewID()
	}
	r, err := m.submit(ctx, s)
	if err != nil {
		return Task{}, taskError("submit", s.ID, err)
	}
	m.counts.submitted.Add(1)
	return r.copy(), nil
}

func (m *Manager) submit(ctx context.Context, s Spec) (*record, error) {
	s, err := s.checked(m.defaultTTL)
	if err != nil {
		return nil, err
	}
	if !m.admits(s.Pool, s.Submitter) {
		return nil, ErrNotMember
	}
	now := m.now()
	if !s.Deadline.IsZero() && !s.Deadline.After(now) {
		return nil, invalid("Deadline %v is over", s.Deadline)
	}
	if m.isFull() {
		return nil, fmt.Errorf("%w: %d", ErrFull, m.maxPending)
	}
	r, err := newRecord(s, now.UnixNano())
	if err != nil {
		return nil, err
	}
	err = m.write(ctx, r, nil)
	if errors.Is(err, store.ErrConflict) {
		return nil, ErrExists
	}
	return r, err
}

func (m *Manager) isFull() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.index.Load()
	return x != nil && x.size >= m.maxPending
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
func (m *Manager) Claim(ctx context.Context, id string, p Profile) (Claim, Task, error) {
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
	return r.claim(), r.copy(), nil
}

// Heartbeat lets a claim last for the task's ClaimTTL from now, though not beyond its deadline, and
// returns it with the new expiry. It returns [ErrClaimLost] or [ErrTerminal] as Report does.
func (m *Manager) Heartbeat(ctx context.Context, c Claim) (Claim, error) {
	r, err := m.change(ctx, c.TaskID, func(r *record, now int64) (*record, error) { return m.ofMember(c.Agent)(r.extend(&c, now)) })
	if err != nil {
		return Claim{}, taskError("heartbeat for", c.TaskID, err)
	}
	return r.claim(), nil
}

// Report completes a task with a result of at most [MaxResult] bytes and its media type, which may be
// empty. It returns [ErrClaimLost] if the claim has expired or the task went to another claim, and
// [ErrTerminal] if the task has ended under this claim: it was reported before, failed or cancelled.
func (m *Manager) Report(ctx context.Context, c Claim, result []byte, mediaType string) (Task, error) {
	if err := checkResult(result, mediaType); err != nil {
		return Task{}, taskError("report", c.TaskID, err)
	}
	o := newOutcome(bytes.Clone(result), mediaType, "")
	r, err := m.change(ctx, c.TaskID, func(r *record, now int64) (*record, error) {
		return m.ofMember(c.Agent)(r.end(&c, Completed, o, now))
	})
	if err != nil {
		return Task{}, taskError("report", c.TaskID, err)
	}
	m.counts.completed.Add(1)
	return r.copy(), nil
}

// Fail ends a task as failed. The reason is cut to [MaxReason] bytes. The errors are those of Report.
func (m *Manager) Fail(ctx context.Context, c Claim, reason string) (Task, error) {
	o := newOutcome(nil, "", fitReason(reason))
	r, err := m.change(ctx, c.TaskID, func(r *record, now int64) (*record, error) {
		return m.ofMember(c.Agent)(r.end(&c, Failed, o, now))
	})
	if err != nil {
		return Task{}, taskError("fail", c.TaskID, err)
	}
	m.counts.failed.Add(1)
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
	now := m.clock()
	x := m.index.Load()
	if x == nil {
		return m.survey(now).visible(p, limit, now)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
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
		next, err := step(old, m.clock())
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

// clock returns the time in nanoseconds since 1970: what is compared and kept has to mean the same to
// other processes.
func (m *Manager) clock() int64 { return m.now().UnixNano() }

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
	r, err := decodeRecord(e)
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
	written, err := m.store.Put(ctx, r.key, *buf, rev)
	if err != nil {
		return err
	}
	r.revision = written
	m.learn(r)
	return nil
}

// learn keeps the index up to date with what this program has just read or written.
func (m *Manager) learn(r *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.index.Load(); x != nil {
		x.put(r)
		m.checkAlarm()
	}
}

// decode returns nil for a record that cannot be read, and sees to it that somebody learns of it.
func (m *Manager) decode(e store.Entry) *record {
	r, err := decodeRecord(e)
	if err != nil && m.unreadable.add(e.Key, e.Revision) {
		m.counts.corrupt.Add(1)
		m.logger.Error("task record is skipped", "error", err)
	}
	return r
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
