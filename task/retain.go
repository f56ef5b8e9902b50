package task

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// past is a task that has ended, and when it is to be deleted.
type past struct {
	id  string
	due int64
}

// maxPast bounds how many of them a manager has in mind. When it has deleted those, it reads the store
// for the next ones.
const maxPast = 1 << 16

// attic has the tasks that are to be deleted first.
type attic struct {
	room  int
	mu    sync.Mutex
	first pasts // a heap with the earliest on top
	more  bool  // there are others in the store
	added chan struct{}
}

// pasts is a heap in the order of before.
type pasts struct {
	all    []past
	before func(a, b past) bool
}

func (p *pasts) push(v past) {
	p.all = append(p.all, v)
	heap.Fix(p, len(p.all)-1) // which puts nothing on the heap of the program
}

func (p *pasts) pop() {
	end := len(p.all) - 1
	p.all[0] = p.all[end]
	p.all[end] = past{}
	if p.all = p.all[:end]; end > 0 {
		heap.Fix(p, 0)
	}
}

func earliest(a, b past) bool { return a.due < b.due }
func latest(a, b past) bool   { return a.due > b.due }

func (p *pasts) Len() int           { return len(p.all) }
func (p *pasts) Less(i, j int) bool { return p.before(p.all[i], p.all[j]) }
func (p *pasts) Swap(i, j int)      { p.all[i], p.all[j] = p.all[j], p.all[i] }
func (p *pasts) Push(any)           {} // push and pop do that
func (p *pasts) Pop() any           { return nil }

func newAttic() *attic {
	return &attic{room: maxPast, first: pasts{before: earliest}, added: make(chan struct{}, 1)}
}

// add notes a task that has just ended, and so is later than nearly all others.
func (a *attic) add(p past) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.more || len(a.first.all) >= a.room {
		a.more = true
		return
	}
	a.first.push(p)
	if a.first.all[0] == p {
		a.wake()
	}
}

func (a *attic) wake() {
	select {
	case a.added <- struct{}{}:
	default:
	}
}

// replace takes in what a look at the whole store has found.
func (a *attic) replace(c *collector) {
	slices.SortFunc(c.last.all, func(a, b past) int { return cmp.Compare(a.due, b.due) }) // a heap, too
	a.mu.Lock()
	defer a.mu.Unlock()
	a.first.all, a.more = c.last.all, c.more
	a.wake()
}

// next returns the task that is to be deleted first, and whether there is one.
func (a *attic) next() (p past, ok, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.first.all) == 0 {
		return past{}, false, a.more
	}
	return a.first.all[0], true, a.more
}

func (a *attic) pop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.first.all) > 0 {
		a.first.pop()
	}
}

// collector keeps the earliest of many.
type collector struct {
	room int
	last pasts // a heap with the latest on top
	more bool
}

func (a *attic) newCollector() *collector {
	return &collector{room: a.room, last: pasts{before: latest}}
}

func (c *collector) add(p past) {
	c.last.push(p)
	if len(c.last.all) > c.room {
		c.last.pop()
		c.more = true
	}
}

// prunes tells whether tasks are deleted at all.
func (m *Manager) prunes() bool { return m.keep != Forever || m.dead != Forever }

// pastOf returns when a task that ended at that time is to be deleted; ok is false if never.
func (m *Manager) pastOf(id string, ended int64, dead bool) (p past, ok bool) {
	keep := m.keep
	if dead {
		keep = m.dead
	}
	due := ended + int64(keep)
	return past{id, due}, keep != Forever && due > ended
}

// shelve notes the end of a task.
func (m *Manager) shelve(r *record) {
	if p, ok := m.pastOf(r.spec.ID, r.updated, r.dead); ok {
		m.attic.add(p)
	}
}

// collect notes what an entry of the store says of a task that has ended.
func (m *Manager) collect(c *collector, e store.Entry) {
	ended, dead, ok := peek(e.Value)
	id, err := idOf(e.Key)
	if !ok || err != nil {
		return
	}
	if p, ok := m.pastOf(id, ended, dead); ok {
		c.add(p)
	}
}

const (
	pruneStep  = 64                    // tasks that are deleted without a pause
	prunePause = 50 * time.Millisecond // at most, between two steps
	pruneDelay = 10 * time.Second      // at most: chance spreads those who share a store
)

// prune deletes tasks when they have been kept for long enough, until ctx is done.
func (m *Manager) prune(ctx context.Context) {
	var pause pause
	for ctx.Err() == nil {
		err := m.pruneDue(ctx)
		if err == nil {
			pause = 0
			m.awaitPast(ctx)
			continue
		}
		if ctx.Err() == nil {
			m.logger.Warn("tasks that ended long ago cannot be deleted; trying again", "error", err)
			pause.wait(ctx)
		}
	}
}

// awaitPast waits until there is something to delete.
func (m *Manager) awaitPast(ctx context.Context) {
	for {
		timer := time.NewTimer(time.Duration(1<<63 - 1))
		if p, ok, more := m.attic.next(); ok || more {
			timer.Reset(max(time.Duration(p.due-m.clock.now()), 0) + rand.N(pruneDelay))
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.attic.added:
			timer.Stop()
			continue
		}
		timer.Stop()
		return
	}
}

// pruneDue deletes what is due, a few at a time.
func (m *Manager) pruneDue(ctx context.Context) error {
	now := m.clock.now()
	for n := 1; ; n++ {
		p, ok, more := m.attic.next()
		if !ok && more {
			if err := m.refill(ctx); err != nil {
				return err
			}
			continue
		}
		if !ok || p.due > now {
			return nil
		}
		if err := m.forgetPast(ctx, p, now); err != nil {
			return err
		}
		m.attic.pop()
		if n%pruneStep == 0 && sleep.For(ctx, rand.N(prunePause)) != nil {
			return context.Cause(ctx)
		}
	}
}

// refill reads the store for the tasks that are to be deleted next.
func (m *Manager) refill(ctx context.Context) error {
	c := m.attic.newCollector()
	for e, err := range m.store.List(ctx, keyPrefix) {
		if err != nil {
			return err
		}
		m.collect(c, e)
	}
	m.attic.replace(c)
	return nil
}

// forgetPast deletes a task, unless it is not what it was taken for, or is gone.
func (m *Manager) forgetPast(ctx context.Context, p past, now int64) error {
	r, err := m.read(ctx, p.id)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrRecord) || errors.Is(err, ErrInvalid) {
		return nil
	}
	if err != nil {
		return err
	}
	if due, ok := m.pastOf(p.id, r.updated, r.dead); !ok || !r.status.Terminal() || due.due > now {
		return nil
	}
	err = m.store.Delete(ctx, r.key, r.revision)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err == nil {
		m.counts.pruned.Add(1)
	}
	return err
}
