package identity

import "sync"

// ChangeKind is what a [Change] is about.
type ChangeKind uint8

// The kinds of changes.
const (
	Rotated     ChangeKind = iota + 1 // another statement is in force
	Revoked                           // the agent is revoked
	Quarantined                       // the agent's root key contradicts itself
	Released                          // the quarantine is over
)

// String returns the kind in lower case.
func (k ChangeKind) String() string {
	if k > Released {
		k = 0
	}
	return [...]string{"unknown", "rotated", "revoked", "quarantined", "released"}[k]
}

// Change tells that the keys of an agent are not what they were.
type Change struct {
	ID    ID
	Kind  ChangeKind
	Epoch uint64 // of the statement, where there is one
}

// watching is a registry's list of those who want to hear of changes.
type watching struct {
	watchMu  sync.RWMutex
	watchers map[*func(Change)]struct{}
}

// OnChange has f called after each change of an agent's keys, until stop is called. The registry is changed
// already, so Lookup says what is so now; two changes at a time may be told in either order. f runs on the
// goroutine that made the change: it must return at once, and may look keys up, but not change them. There is no
// queue, so nothing is lost. stop may be called twice; a call of f that is under way may outlast it.
func (r *Registry) OnChange(f func(Change)) (stop func()) {
	r.watchMu.Lock()
	defer r.watchMu.Unlock()
	if r.watchers == nil {
		r.watchers = map[*func(Change)]struct{}{}
	}
	key := &f
	r.watchers[key] = struct{}{}
	return func() {
		r.watchMu.Lock()
		defer r.watchMu.Unlock()
		delete(r.watchers, key)
	}
}

func (r *Registry) announce(c Change) {
	switch c.Kind {
	case Quarantined:
		r.log.Error("the root key of an agent has signed two statements that contradict each other; nothing of the agent is accepted until it is released or revoked", "id", c.ID)
	case Revoked:
		r.log.Warn("agent is revoked", "id", c.ID)
	}
	r.watchMu.RLock()
	watchers := make([]func(Change), 0, len(r.watchers))
	for f := range r.watchers {
		watchers = append(watchers, *f)
	}
	r.watchMu.RUnlock()
	for _, f := range watchers {
		f(c)
	}
}
