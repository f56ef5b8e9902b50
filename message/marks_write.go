package message

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

const (
	// minMarksPause and maxMarksPause space the attempts on a store that fails.
	minMarksPause = 50 * time.Millisecond
	maxMarksPause = 2 * time.Second
	// marksTimeout bounds one attempt.
	marksTimeout = 5 * time.Second
	// marksWarnEvery spaces the lines in the log about a store that fails.
	marksWarnEvery = time.Minute
	// marksParallel is how many records of senders are written at the same time.
	marksParallel = 16
	// marksBatch bounds the records of senders that are written before the ceiling of all has its turn again,
	// and those that are removed after it was written.
	marksBatch = 64
)

// job is what is to be written next: one of these.
type job struct {
	ceiling int64
	senders []identity.ID
	remove  []identity.ID
}

// write writes until there is nothing to write.
func (m *Marks) write(ctx context.Context) {
	pause := minMarksPause
	for {
		j, ok := m.next()
		if !ok {
			return
		}
		if m.note(m.do(ctx, j)) {
			pause = minMarksPause
			continue
		}
		select {
		case <-ctx.Done():
		case <-m.urgent:
		case <-time.After(pause):
			pause = min(2*pause, maxMarksPause)
		}
	}
}

// next returns what is most urgent. If that is nothing, the writing has ended.
func (m *Marks) next() (job, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == marksOpen && !m.taken {
		if m.all.want > m.all.durable {
			return job{ceiling: m.all.want}, true
		}
		if senders := m.waiting(); len(senders) > 0 {
			return job{senders: senders}, true
		}
		if remove := m.redundant(); len(remove) > 0 {
			return job{remove: remove}, true
		}
	}
	m.writing = false
	return job{}, false
}

// waiting returns senders whose own ceilings are to be written, those first whose turn it is. It wants mu
// held.
func (m *Marks) waiting() []identity.ID {
	m.queue = slices.DeleteFunc(m.queue, func(id identity.ID) bool {
		entry := m.senders[id]
		entry.queued = entry.want > m.all.durable // or the ceiling of all has caught up
		return !entry.queued
	})
	return slices.Clone(m.queue[:min(len(m.queue), marksBatch)])
}

func (m *Marks) do(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	switch {
	case j.ceiling > 0:
		return m.raise(ctx, j.ceiling)
	case len(j.senders) > 0:
		return m.raiseOwn(ctx, j.senders)
	}
	m.remove(ctx, j.remove)
	return nil
}

// note takes note of how an attempt went, and reports whether the next one may follow at once.
func (m *Marks) note(err error) bool {
	if err == nil {
		return true
	}
	m.failed.Inc()
	warn, over := m.fail(err)
	switch {
	case warn && over:
		m.log.Error("refusing messages", "error", err)
	case warn:
		m.log.Warn("cannot write replay marks: refusing messages beyond them until that works", "error", err)
	}
	return over
}

// fail remembers an error, and reports whether to log it and whether it is the last one.
func (m *Marks) fail(err error) (warn, over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != marksOpen { // it is that of the end
		return false, true
	}
	m.trouble = err
	if errors.Is(err, ErrMarksTaken) {
		m.taken = true
		m.announce()
		return true, true
	}
	if !m.warned.IsZero() && time.Since(m.warned) < marksWarnEvery {
		return false, false
	}
	m.warned = time.Now()
	return true, false
}

// raise writes the ceiling of all.
func (m *Marks) raise(ctx context.Context, to int64) error {
	if err := m.putCeiling(ctx, to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.durable, m.all.overdue, m.tidy, m.trouble = to, false, len(m.senders) > 0, nil
	if m.state == marksOpen {
		m.near.Store(to - m.all.step/4)
	}
	m.announce()
	return nil
}

// putCeiling writes the record of the ceiling over the one that this process wrote last.
func (m *Marks) putCeiling(ctx context.Context, to int64) error {
	now := m.now().UnixMilli()
	mark := m.encodeCeiling(ceilingMark{run: m.run, written: max(now, 0), ceiling: to})
	revision, err := m.store.Put(ctx, m.ceilingKey(), mark, m.revision)
	if errors.Is(err, store.ErrConflict) { // a write that seemed to fail has happened, or somebody else's
		if err = m.held(ctx); err == nil {
			revision, err = m.store.Put(ctx, m.ceilingKey(), mark, m.revision)
		}
	}
	if err != nil {
		return fmt.Errorf("write ceiling: %w", err)
	}
	m.revision, m.written = revision, now
	m.writes.Inc()
	return nil
}

// held learns the revision of the ceiling's record. It returns ErrMarksTaken if that is another process's,
// and errMarksVanished if there is none.
func (m *Marks) held(ctx context.Context) error {
	entry, err := m.store.Get(ctx, m.ceilingKey())
	if errors.Is(err, store.ErrNotFound) {
		m.vanished()
		return errMarksVanished
	}
	if err != nil {
		return err
	}
	if mark, err := m.decodeCeiling(entry.Value); err != nil || mark.run != m.run {
		return ErrMarksTaken
	}
	m.revision = entry.Revision
	return nil
}

var errMarksVanished = errors.New("the record is gone")

// vanished starts over in a store that has lost the marks: nothing is covered until one ceiling for all
// that was accepted is written.
func (m *Marks) vanished() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.want = max(m.all.want, m.all.durable)
	for id, entry := range m.senders {
		m.all.want = max(m.all.want, entry.top)
		entry.durable, entry.revision = 0, 0
		if !entry.queued {
			m.forget(id)
		}
	}
	m.all.durable, m.revision = 0, 0
	m.near.Store(math.MinInt64)
}

// forget drops the entry of a sender. It wants mu held.
func (m *Marks) forget(id identity.ID) {
	if m.senders[id].own {
		m.own--
	}
	delete(m.senders, id)
}

// raiseOwn writes the ceilings of senders of their own. They count once it is known that nobody else had
// claimed the marks when they were written: who claims them later, reads them.
func (m *Marks) raiseOwn(ctx context.Context, senders []identity.ID) error {
	written := make([]senderEntry, len(senders))
	errs := inParallel(len(senders), func(i int) (err error) {
		entry := m.entry(senders[i])
		written[i], err = m.putSender(ctx, senderMark{senders[i], upTo(entry.want)}, entry.revision)
		return err
	})
	err := m.held(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = m.queue[len(senders):]
	for i, id := range senders {
		entry := m.senders[id]
		if errs[i] == nil {
			entry.revision, entry.top = written[i].revision, written[i].top
		}
		if errs[i] == nil && err == nil {
			entry.durable, entry.overdue, m.stuck = written[i].durable, false, false
		}
		if entry.queued = entry.want > entry.durable; entry.queued {
			m.queue = append(m.queue, id)
		}
	}
	m.announce()
	return errors.Join(err, errors.Join(errs...))
}

func (m *Marks) entry(id identity.ID) senderEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	if entry := m.senders[id]; entry != nil {
		return *entry
	}
	return senderEntry{}
}

// putSender writes the record of a sender over the one at a revision. If there is another, a write that
// seemed to fail has happened, or somebody else has written: then one ceiling forbids what both forbid.
func (m *Marks) putSender(ctx context.Context, mark senderMark, at store.Revision) (senderEntry, error) {
	key := m.senderKey(mark.sender)
	revision, err := m.store.Put(ctx, key, m.encodeSender(mark), at)
	if errors.Is(err, store.ErrConflict) {
		var other store.Entry
		if other, err = m.store.Get(ctx, key); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		if err == nil {
			mark, err = m.merge(mark, other)
		}
		if err == nil {
			revision, err = m.store.Put(ctx, key, m.encodeSender(mark), other.Revision)
		}
	}
	if err != nil {
		return senderEntry{}, fmt.Errorf("write mark of %s: %w", mark.sender.Short(), err)
	}
	m.writes.Inc()
	return senderEntry{ceiling: ceiling{durable: mark.state.covers()}, revision: revision, top: mark.state.top()}, nil
}

// merge returns a mark that forbids what both forbid. An unreadable one forbids nothing.
func (m *Marks) merge(mark senderMark, other store.Entry) (senderMark, error) {
	if other.Revision == 0 {
		return mark, nil
	}
	theirs, err := m.decodeSender(mark.sender, other.Value)
	if errors.Is(err, ErrMarksVersion) {
		return mark, err
	}
	top := mark.state.top()
	if err == nil {
		top = max(top, theirs.state.top())
	}
	mark.state = upTo(top)
	return mark, nil
}

// redundant returns some senders whose records forbid nothing that the ceiling of all does not, and that
// have not been heard for so long that nothing of theirs can be under way. It wants mu held.
func (m *Marks) redundant() []identity.ID {
	if !m.tidy {
		return nil
	}
	m.tidy = false // until the ceiling is raised again
	var found []identity.ID
	looked := 0
	for id, entry := range m.senders {
		if !entry.queued && entry.top+m.guard.lifetime < m.all.durable {
			found = append(found, id)
		}
		if looked++; len(found) == marksBatch || looked == 16*marksBatch {
			break
		}
	}
	return found
}

// remove removes records that are redundant. What cannot be removed is harmless, and its turn comes again.
func (m *Marks) remove(ctx context.Context, senders []identity.ID) {
	inParallel(len(senders), func(i int) error {
		id := senders[i]
		if at := m.entry(id).revision; at != 0 {
			err := m.store.Delete(ctx, m.senderKey(id), at)
			if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
				return err
			}
			m.writes.Inc()
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if entry := m.senders[id]; entry.queued { // it is ahead once more
			entry.durable, entry.revision = 0, 0
		} else {
			m.forget(id)
		}
		return nil
	})
}

// writeExactly replaces ceilings by the exact state of the senders that there are; any other was last
// heard before the floor. The ceiling of all comes last: until it is lowered, it forbids everything.
func (m *Marks) writeExactly(ctx context.Context, senders []senderMark, floor int64) error {
	held := m.held(ctx)
	if held != nil && !errors.Is(held, errMarksVanished) {
		return held
	}
	left, err := m.writeSenders(ctx, senders)
	exact := max(floor-1, left, 0)
	if held == nil && exact >= m.all.durable {
		return err
	}
	return errors.Join(err, m.putCeiling(ctx, exact))
}

// writeSenders writes the exact state of senders, those heard last first, up to the first failure. left is
// the issue time up to which those have been heard that are left out. It leaves a quarter of the time.
func (m *Marks) writeSenders(ctx context.Context, senders []senderMark) (left int64, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*3/4)
		defer cancel()
	}
	var failed atomic.Pointer[error]
	var count atomic.Int64
	errs := inParallel(len(senders), func(i int) error {
		if first := failed.Load(); first != nil {
			return *first
		}
		_, err := m.putSender(ctx, senders[i], m.entry(senders[i].sender).revision)
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
		return err
	})
	for i, err := range errs {
		if err != nil {
			left = max(left, senders[i].state.top())
			count.Add(1)
		}
	}
	if first := failed.Load(); first != nil {
		return left, fmt.Errorf("%d of %d senders: %w", count.Load(), len(senders), *first)
	}
	return 0, nil
}

// inParallel calls f with 0 to n-1, several at a time, and returns its errors.
func inParallel(n int, f func(int) error) []error {
	errs := make([]error, n)
	var next atomic.Int64
	var calls sync.WaitGroup
	for range min(n, marksParallel) {
		calls.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = f(i)
			}
		})
	}
	calls.Wait()
	return errs
}
