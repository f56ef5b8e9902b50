package memory

import (
	"sync/atomic"

	"github.com/converge-agents/converge/store"
)

// latest finds slots by the revision of their item, if that is one of the latest 65,536. Whoever replaces an entry names its
// revision, and what is replaced has mostly been written not long ago; so its slot need not be looked up by key, among
// millions that are all over the memory. Memory comes as revisions do, up to 512 KiB.
type latest [latestParts]atomic.Pointer[latestPart]

type latestPart [latestLength]atomic.Pointer[slot]

const (
	latestParts  = 64
	latestLength = 1024
)

// at returns the place for a revision, which it may share with older ones; nil if there never was one.
func (l *latest) at(rev store.Revision) *atomic.Pointer[slot] {
	part := l[rev/latestLength%latestParts].Load()
	if part == nil {
		return nil
	}
	return &part[rev%latestLength]
}

// note enters a slot. Like forget, it wants the store locked.
func (l *latest) note(place *slot) {
	if part := &l[place.revision/latestLength%latestParts]; part.Load() == nil {
		part.Store(new(latestPart))
	}
	if !place.gone {
		l.at(place.revision).Store(place)
	}
}

// forget takes out a slot that is about to get another item, so that none is kept for longer than its key.
func (l *latest) forget(place *slot) {
	if at := l.at(place.revision); at.Load() == place {
		at.Store(nil)
	}
}

// find returns the slot of a key if it is there. It may have got another item by the time that its shard is locked.
func (l *latest) find(key string, rev store.Revision) *slot {
	at := l.at(rev)
	if at == nil {
		return nil
	}
	if place := at.Load(); place != nil && place.key == key {
		return place
	}
	return nil
}

// clear lets go of all slots.
func (l *latest) clear() {
	for i := range l {
		l[i].Store(nil)
	}
}
