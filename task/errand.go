package task

import (
	"sync"

	"github.com/converge-agents/converge/store"
)

// errand is the change of a task that this program has under way to the store. A store may tell of a change before
// its writer has the answer: who follows the store then need not read, and verify, what this program has just written.
type errand struct {
	mu  sync.Mutex
	out *record // nil if there is none; of several the latest
}

// leave says that a record goes to the store.
func (r *record) leave() {
	r.errand.mu.Lock()
	defer r.errand.mu.Unlock()
	r.errand.out = r
}

// arrived gives a record the revision with which it has been written.
func (r *record) arrived(with store.Revision) {
	r.errand.mu.Lock()
	defer r.errand.mu.Unlock()
	if r.revision == 0 { // it is not yet known that way
		r.revision = with
	}
}

// returned ends the errand of a record.
func (r *record) returned() {
	r.errand.mu.Lock()
	defer r.errand.mu.Unlock()
	if r.errand.out == r {
		r.errand.out = nil
	}
}

// sent returns the record that is on its way to the store for the same task, if that is what has been put there.
func (r *record) sent(ev store.TextEvent) *record {
	r.errand.mu.Lock()
	defer r.errand.mu.Unlock()
	out := r.errand.out
	if out == nil || out.revision != 0 && out.revision != ev.Revision {
		return nil
	}
	if out.revision == ev.Revision {
		return out
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if *buf = out.append((*buf)[:0]); string(*buf) != ev.Value {
		return nil
	}
	out.revision = ev.Revision
	return out
}
