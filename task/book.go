package task

import (
	"hash/maphash"
	"iter"
	"sync"
)

// book has the newest record of each task that an index knows. It has a lock for each of its pages, so
// that looking something up, which every operation does, rarely waits for anybody.
type book struct {
	seed  maphash.Seed
	pages [64]page
}

type page struct {
	mu    sync.Mutex
	tasks map[string]*newest
}

// newest is where the newest record of a task rests.
type newest struct{ *record }

func newBook() *book {
	b := &book{seed: maphash.MakeSeed()}
	for i := range b.pages {
		b.pages[i].tasks = map[string]*newest{}
	}
	return b
}

func (b *book) page(id string) *page {
	return &b.pages[maphash.String(b.seed, id)%uint64(len(b.pages))]
}

// get returns nil for a task that is not there.
func (b *book) get(id string) *record {
	p := b.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.tasks[id]; n != nil {
		return n.record
	}
	return nil
}

// put enters a record unless there is a newer one, which it tells. It returns the record that was there.
func (b *book) put(r *record) (old *record, ok bool) {
	p := b.page(r.spec.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.tasks[r.spec.ID]
	if n == nil {
		p.tasks[r.spec.ID] = &newest{r}
		return nil, true
	}
	if old = n.record; old.revision >= r.revision {
		return old, false
	}
	n.record = r
	return old, true
}

func (b *book) remove(id string) {
	p := b.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tasks, id)
}

// all yields every record. The book must not be changed meanwhile.
func (b *book) all() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for i := range b.pages {
			for _, n := range b.pages[i].tasks {
				if !yield(n.record) {
					return
				}
			}
		}
	}
}
