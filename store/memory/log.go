package memory

import "github.com/converge-agents/converge/store"

// log is a bounded queue of the latest changes. Revisions are consecutive in this store, so the change
// of revision r rests at r modulo the length of the ring.
type log struct {
	ring        []*item
	first, next store.Revision // the oldest change kept, and the one to come
	bytes       int64

	maxLength int
	maxBytes  int64
}

func newLog(c Config) log {
	return log{first: 1, next: 1, maxLength: c.MaxLog, maxBytes: c.MaxLogBytes}
}

func (l *log) length() int { return int(l.next - l.first) }

func (l *log) at(rev store.Revision) *item { return l.ring[rev%store.Revision(len(l.ring))] }

// add appends a change, whose revision is next, and drops old ones to stay within the bounds.
func (l *log) add(change *item) {
	if l.length() == len(l.ring) && l.length() < l.maxLength {
		l.widen()
	}
	l.bytes += change.size()
	for l.length() > 0 && (l.length() >= l.maxLength || l.bytes > l.maxBytes) {
		l.drop()
	}
	l.ring[l.next%store.Revision(len(l.ring))] = change
	l.next++
}

func (l *log) drop() {
	place := l.first % store.Revision(len(l.ring))
	l.bytes -= l.ring[place].size()
	l.ring[place] = nil
	l.first++
}

func (l *log) widen() {
	wide := make([]*item, min(max(2*len(l.ring), 16), l.maxLength))
	for r := l.first; r < l.next; r++ {
		wide[r%store.Revision(len(wide))] = l.at(r)
	}
	l.ring = wide
}
