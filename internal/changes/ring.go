package changes

import "github.com/converge-agents/converge/store"

// ring is a bounded queue of the latest changes. Revisions are consecutive, so the change of revision r
// rests at r modulo the length of the slots.
type ring struct {
	slots       []kept
	first, next store.Revision // the oldest change kept, and the one to come
	bytes       int64

	maxLength int
	maxBytes  int64
}

// kept is a change with its size. It can be dropped without a look at the change, which is far away in memory by then.
type kept struct {
	*Change
	size int64
}

func (r *ring) length() int { return int(r.next - r.first) }

func (r *ring) at(rev store.Revision) kept { return r.slots[rev%store.Revision(len(r.slots))] }

// add appends a change, whose revision is next, and drops old ones to stay within the bounds.
func (r *ring) add(change *Change) {
	if r.length() == len(r.slots) && r.length() < r.maxLength {
		r.widen()
	}
	size := change.Size()
	r.bytes += size
	for r.length() > 0 && (r.length() >= r.maxLength || r.bytes > r.maxBytes) {
		r.drop()
	}
	r.slots[r.next%store.Revision(len(r.slots))] = kept{change, size}
	r.next++
}

func (r *ring) drop() {
	place := r.first % store.Revision(len(r.slots))
	r.bytes -= r.slots[place].size
	r.slots[place] = kept{}
	r.first++
}

func (r *ring) widen() {
	wide := make([]kept, min(max(2*len(r.slots), 16), r.maxLength))
	for rev := r.first; rev < r.next; rev++ {
		wide[rev%store.Revision(len(wide))] = r.at(rev)
	}
	r.slots = wide
}
