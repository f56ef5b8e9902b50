package task

import (
	"context"
	"errors"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// expireDue does what is due, when it is, until ctx is done.
func (m *Manager) expireDue(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var pause pause
	for {
		m.setAlarm(timer)
		select {
		case <-ctx.Done():
			return
		case <-m.earlier:
			continue
		case <-timer.C:
		}
		err := m.expireAll(ctx)
		if ctx.Err() != nil {
			return
		}
		m.health.set(&m.health.expiring, err)
		if err == nil {
			pause = 0
			continue
		}
		m.logger.Warn("expired tasks cannot be changed; trying again", "error", err)
		if !pause.wait(ctx) {
			return
		}
	}
}

// setAlarm sets the timer for the first thing that is due. What is entered after the look at the index finds no alarm, or
// the one that is set then; so it is not missed.
func (m *Manager) setAlarm(timer *time.Timer) {
	now := m.clock.now()
	m.alarm.Store(0)
	first := m.firstDue()
	m.alarm.Store(first)
	if first == 0 {
		timer.Stop()
		return
	}
	timer.Reset(time.Duration(first - now))
}

// checkAlarm has the timer set anew if a record that has been entered is due before it goes off.
func (m *Manager) checkAlarm(r *record) {
	at := r.next()
	if alarm := m.alarm.Load(); at != 0 && (alarm == 0 || at < alarm) {
		m.resetAlarm()
	}
}

// resetAlarm has the timer set anew.
func (m *Manager) resetAlarm() {
	select {
	case m.earlier <- struct{}{}:
	default:
	}
}

// firstDue returns the time of the first thing that is due, or 0.
func (m *Manager) firstDue() int64 {
	if x := m.index.Load(); x != nil {
		return x.firstDue()
	}
	return 0
}

// expireAll does all that is due now. It goes on with the others where one finds the store full.
func (m *Manager) expireAll(ctx context.Context) error {
	now := m.clock.now()
	m.wakenAll(now)
	var full error
	for _, r := range m.allDue(now) {
		err := m.expire(ctx, r, now)
		if errors.Is(err, store.ErrFull) {
			full = err
		} else if err != nil {
			return err
		}
	}
	return full
}

// wakenAll shows the tasks that are ready, and tells of them unless something newer will be told.
func (m *Manager) wakenAll(now int64) {
	for _, r := range m.allReady(now) {
		m.tellIf(r, func() bool { return m.recall(r.spec.ID) == r })
	}
}

func (m *Manager) allReady(now int64) []*record {
	if x := m.index.Load(); x != nil {
		return x.waken(now)
	}
	return nil
}

func (m *Manager) allDue(now int64) []*record {
	if x := m.index.Load(); x != nil {
		return x.dueBy(now)
	}
	return nil
}

// expire does what is due for one task, unless somebody else has.
func (m *Manager) expire(ctx context.Context, r *record, now int64) error {
	next := r.expire(now)
	err := m.write(ctx, next, r)
	if errors.Is(err, store.ErrConflict) {
		m.counts.conflicts.Add(1)
		return m.reread(ctx, r)
	}
	if err != nil {
		return err
	}
	if r.status == Assigned {
		m.counts.expired.Add(1)
	}
	m.countFailure(next)
	return nil
}

// countFailure counts the end of an attempt that did not complete the task.
func (m *Manager) countFailure(r *record) {
	if r.status == Failed {
		m.counts.failed.Add(1)
	}
	if r.dead {
		m.counts.dead.Add(1)
	}
	if r.status == Pending && r.attempts > 0 {
		m.counts.retried.Add(1)
	}
}

// reread replaces what the index has of a task by what the store has.
func (m *Manager) reread(ctx context.Context, old *record) error {
	r, err := m.read(ctx, old.spec.ID)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrRecord):
		m.forget(old)
		return nil
	case err == nil && r.revision == old.revision:
		return store.ErrConflict // the store contradicts itself
	}
	return err
}

func (m *Manager) forget(old *record) {
	if x := m.index.Load(); x != nil {
		x.remove(old)
	}
}

// Bounds of the pause after the store has given an error.
const (
	minPause = 100 * time.Millisecond
	maxPause = 30 * time.Second
)

// pause doubles from one wait to the next. The zero pause is as yet to be waited for.
type pause time.Duration

// wait returns false when ctx is done.
func (p *pause) wait(ctx context.Context) bool {
	*p = min(max(2**p, pause(minPause)), pause(maxPause))
	return sleep.For(ctx, time.Duration(*p)) == nil
}
