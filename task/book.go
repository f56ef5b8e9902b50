package task

import (
	"hash/maphash"
	"iter"
	"sync/atomic"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/store"
)

// book has the newest record of each task that an index knows. It has a lock for each of its pages, so
// that looking something up, which every operation does, rarely waits for anybody.
type book struct {
	seed  maphash.Seed
	pages [64]page
	seen  atomic.Uint64 // the revision up to which the watch has been through: what is older comes too late
}

type page struct {
	mu    brief.Mutex
	tasks map[string]*record
	_     [48]byte // the next one is on another cache line
}

func newBook() *book {
	return &book{seed: maphash.MakeSeed()}
}

func (b *book) page(id string) *page {
	return &b.pages[maphash.String(b.seed, id)%uint64(len(b.pages))]
}

// get returns nil for a task that is not there.
func (b *book) get(id string) *record {
	p := b.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tasks[id]
}

// put enters a record, and tells whether it was news: neither is there a newer one, nor can there have
// been one that is gone. It returns the record that was there.
func (b *book) put(r *record) (old *record, ok bool) {
	p := b.page(r.spec.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if uint64(r.revision) <= b.seen.Load() {
		return nil, false
	}
	if old = p.tasks[r.spec.ID]; old != nil && old.revision >= r.revision {
		return old, false
	}
	if p.tasks == nil {
		p.tasks = map[string]*record{}
	}
	p.tasks[r.spec.ID] = r
	return old, true
}

// restore enters a record that is older than what has been seen, unless there is one of its task.
func (b *book) restore(r *record) bool {
	p := b.page(r.spec.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tasks[r.spec.ID] != nil {
		return false
	}
	if p.tasks == nil {
		p.tasks = map[string]*record{}
	}
	p.tasks[r.spec.ID] = r
	return true
}

// remove takes out a record unless it has been replaced. So that no older one comes back, seen has to be
// set before.
func (b *book) remove(r *record) {
	p := b.page(r.spec.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tasks[r.spec.ID] == r {
		delete(p.tasks, r.spec.ID)
	}
}

func (b *book) see(at store.Revision) { b.seen.Store(uint64(at)) }

// all yields every record. The book must not be changed meanwhile.
func (b *book) all() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for i := range b.pages {
			for _, r := range b.pages[i].tasks {
				if !yield(r) {
					return
				}
			}
		}
	}
}
