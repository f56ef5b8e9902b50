package natskv

import (
	"context"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"github.com/converge-agents/converge/store"
)

// view is the process's copy of the bucket, which the feed keeps up to date.
type view struct {
	maxLog uint64

	mu       sync.Mutex
	entries  *btree.BTreeG[*change] // those that exist, by key
	log      ring                   // the latest changes, without gaps
	position uint64                 // the copy shows the bucket as it was at this sequence, unless there was a gap on the way
	gaps     int                    // counts them
	life     int                    // counts the buckets of this name that the store has seen
	loaded   uint64                 // until the position is here, the copy is being filled
	ready    bool                   // loaded is known
	waiting  waiters
}

// waiter waits for a change under its prefix, or for the position to reach target.
type waiter struct {
	prefix string
	seen   uint64 // every change up to here was handed out or is of no concern
	target uint64 // 0 for a watcher
	life   int
	woken  chan struct{} // holds one
	index  int           // among those that wait; -1 while it does not
}

func newWaiter(prefix string) *waiter {
	return &waiter{prefix: prefix, woken: make(chan struct{}, 1), index: -1}
}

// waiters are those that wait, in no order.
type waiters []*waiter

func (l *waiters) add(w *waiter) {
	w.index = len(*l)
	*l = append(*l, w)
}

func (l *waiters) remove(w *waiter) {
	end := len(*l) - 1
	moved := (*l)[end]
	(*l)[w.index], moved.index = moved, w.index
	(*l)[end], w.index = nil, -1
	*l = (*l)[:end]
}

// wake ends the wait of those for whom due returns true.
func (l *waiters) wake(due func(*waiter) bool) {
	for i := len(*l) - 1; i >= 0; i-- {
		if w := (*l)[i]; due(w) {
			l.remove(w)
			w.woken <- struct{}{}
		}
	}
}

func newView(maxLog int) *view {
	v := &view{maxLog: uint64(maxLog), log: ring{most: min(maxLog, maxRing)}}
	v.entries = newEntries()
	return v
}

func newEntries() *btree.BTreeG[*change] {
	less := func(a, b *change) bool { return a.key < b.key }
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// restart forgets everything: what comes next is the last message of each key, up to loaded at least.
func (v *view) restart(loaded uint64, empty bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ready {
		v.life++
	}
	v.entries, v.position, v.loaded, v.ready = newEntries(), 0, loaded, true
	if empty {
		v.position = loaded
	}
	v.gap(0)
	v.wakeAll()
}

// gap says that changes after before and up to the position have not come. Watchers that wait have to know. It
// wants mu held.
func (v *view) gap(before uint64) {
	v.gaps++
	v.log.restart(v.position + 1)
	if v.isLoading(before) {
		return // nobody watches yet
	}
	v.waiting.wake(func(w *waiter) bool {
		if w.target == 0 {
			w.seen = max(w.seen, before)
		}
		return w.target == 0
	})
}

// isLoading reports whether the view was being filled at a position. It wants mu held.
func (v *view) isLoading(position uint64) bool { return !v.ready || position < v.loaded }

// apply takes a change in. One that is not later than the position has come before. It tells whether the view was
// being filled.
func (v *view) apply(d *change) (loading bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.position
	if d.sequence <= before {
		return false
	}
	if d.sequence != before+1 {
		v.position = d.sequence - 1
		v.gap(before)
	}
	v.position = d.sequence
	switch {
	case d.isEntry():
		v.entries.Set(d)
	case d.key != "":
		v.entries.Delete(d)
	}
	v.log.add(d)
	if !v.isLoading(before) {
		v.wake(d)
		return false
	}
	if !v.isLoading(v.position) {
		v.wakeAll()
	}
	return true
}

// skip moves the position over changes that are no longer there.
func (v *view) skip(from, to uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.position == from && to > from {
		v.position = to
		v.gap(from)
		v.wakeAll()
	}
}

// wake ends the wait of those whom a change concerns. It wants mu held.
func (v *view) wake(d *change) {
	v.waiting.wake(func(w *waiter) bool {
		if w.target > 0 {
			return w.target <= v.position
		}
		if !strings.HasPrefix(d.key, w.prefix) {
			return false
		}
		w.seen = max(w.seen, d.sequence-1)
		return true
	})
}

func (v *view) wakeAll() { v.waiting.wake(func(*waiter) bool { return true }) }

func (v *view) forget(w *waiter) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w.index >= 0 {
		v.waiting.remove(w)
		return
	}
	<-w.woken // in the meantime
}

func (v *view) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.entries, v.log = newEntries(), ring{most: v.log.most}
}

// where returns the position, the number of gaps so far, and whether the copy was filled.
func (v *view) where() (position uint64, gaps int, filled bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.position, v.gaps, v.ready && v.position >= v.loaded
}

// snapshot is the bucket as it was at a position.
type snapshot struct {
	entries  *btree.BTreeG[*change]
	position uint64
	life     int
}

// take returns the copy as it is if it has reached target and there was no gap since there were that many.
func (v *view) take(target uint64, gaps int) (*snapshot, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gaps != gaps || v.position < target {
		return nil, false
	}
	return &snapshot{v.entries.Copy(), v.position, v.life}, true
}

// each hands out the entries under prefix from begin on, until emit returns false; it tells whether more was wanted.
func (s *snapshot) each(ctx context.Context, begin, prefix string, emit func(store.Entry) bool) (more bool, err error) {
	more = true
	s.entries.Ascend(&change{key: begin}, func(d *change) bool {
		if !strings.HasPrefix(d.key, prefix) {
			return false
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			return false
		}
		more = emit(d.entry())
		return more
	})
	return more, err
}

// ring is a queue of the latest changes. Their sequences are consecutive.
type ring struct {
	most    int
	changes []*change
	start   int    // of the oldest in changes
	first   uint64 // its sequence, or that of the next change to come
	bytes   int
}

// Bounds of the ring; a watcher that is further behind reads from the stream.
const (
	maxRing      = 8 << 10
	maxRingBytes = 16 << 20
)

func (r *ring) next() uint64 { return r.first + uint64(len(r.changes)-r.start) }

func (r *ring) restart(first uint64) {
	*r = ring{most: r.most, first: first}
}

func (r *ring) at(sequence uint64) *change { return r.changes[r.start+int(sequence-r.first)] }

// add appends the change that is next, and drops old ones to stay within the bounds. The newest is always kept.
func (r *ring) add(d *change) {
	r.changes = append(r.changes, d)
	r.bytes += d.size()
	for len(r.changes)-r.start > 1 && (len(r.changes)-r.start > r.most || r.bytes > maxRingBytes) {
		r.bytes -= r.changes[r.start].size()
		r.changes[r.start] = nil
		r.start++
		r.first++
	}
	if r.start > len(r.changes)/2 && r.start > 64 {
		r.changes = append(make([]*change, 0, len(r.changes)), r.changes[r.start:]...)
		r.start = 0
	}
}
