package task

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/store"
)

// pages is how many a book has: as many as there are bits in book.moved.
const pages = 64

// book has the newest record of each task that an index knows. It has a lock for each of its pages, so
// that looking something up, which every operation does, rarely waits for anybody.
type book struct {
	seed  maphash.Seed
	pages [pages]page
	moved atomic.Uint64 // a bit for each page that has moves
	seen  atomic.Uint64 // the revision up to which the watch has been through: what is older comes too late
}

// page has some of the tasks.
type page struct {
	mu    brief.Mutex
	tasks map[string]*record
	moves moves
	_     [24]byte // the next one is on another cache line
}

func newBook() *book {
	return &book{seed: maphash.MakeSeed()}
}

func (b *book) page(id string) *page { return &b.pages[b.number(id)] }

// number returns that of the page of a task.
func (b *book) number(id string) int { return int(maphash.String(b.seed, id) % pages) }

// get returns nil for a task that is not there.
func (b *book) get(id string) *record {
	p := b.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tasks[id]
}

// put enters a record if it is news: neither is there a newer one, nor can there have been one that is gone.
func (b *book) put(r *record) backlog {
	number := b.number(r.spec.ID)
	p := &b.pages[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	if uint64(r.revision) <= b.seen.Load() {
		return 0
	}
	old := p.tasks[r.spec.ID]
	if old != nil && old.revision >= r.revision {
		return 0
	}
	return b.enter(number, old, r)
}

// restore enters a record that is older than what has been seen, unless there is one of its task.
func (b *book) restore(r *record) (_ backlog, ok bool) {
	number := b.number(r.spec.ID)
	p := &b.pages[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tasks[r.spec.ID] != nil {
		return 0, false
	}
	return b.enter(number, nil, r), true
}

// enter replaces a record. It wants the page locked.
func (b *book) enter(number int, old, r *record) backlog {
	p := &b.pages[number]
	if p.tasks == nil {
		p.tasks = map[string]*record{}
	}
	p.tasks[r.spec.ID] = r
	return b.note(number, old, r)
}

// note notes a move of one of the two, which may be nil, to the other. It wants the page locked.
func (b *book) note(number int, from, to *record) backlog {
	p := &b.pages[number]
	if p.moves.note(from, to); len(p.moves) == 1 {
		b.moved.Or(1 << number)
	}
	if r := cmp.Or(to, from); len(r.encoded) >= largeMove {
		return backlog(max(len(p.moves), enoughMoves))
	}
	return backlog(len(p.moves))
}

// removeUpTo takes out the record of a task unless it is newer, and returns it; nil if there is none. So that no older
// one comes back, seen has to be set before.
func (b *book) removeUpTo(id string, at store.Revision) (*record, backlog) {
	return b.removeIf(id, func(there *record) bool { return there.revision <= at })
}

// remove takes out a record unless it has been replaced. What is said of removeUpTo holds for it.
func (b *book) remove(r *record) backlog {
	_, noted := b.removeIf(r.spec.ID, func(there *record) bool { return there == r })
	return noted
}

func (b *book) removeIf(id string, so func(*record) bool) (*record, backlog) {
	number := b.number(id)
	p := &b.pages[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.tasks[id]
	if r == nil || !so(r) {
		return nil, 0
	}
	delete(p.tasks, id)
	if r.status.Terminal() {
		return r, 0
	}
	return r, b.note(number, r, nil)
}

// takeMoves returns the moves of a page, which has others room from then on.
func (b *book) takeMoves(number int, room moves) moves {
	p := &b.pages[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	b.moved.And(^uint64(1 << number))
	taken := p.moves
	p.moves = room[:0]
	return taken
}

func (b *book) see(at store.Revision) { b.seen.Store(uint64(at)) }

// all yields the records of one page after the other.
func (b *book) all() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for i := range b.pages {
			for _, r := range b.pages[i].all() {
				if !yield(r) {
					return
				}
			}
		}
	}
}

func (p *page) all() []*record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.tasks))
}
