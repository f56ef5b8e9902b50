package task

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// strangerError says that a signature is by an agent whose key is not known, which may be so yet.
type strangerError struct {
	agent identity.ID
	error
}

func (e *strangerError) Unwrap() error { return e.error }

// strangers remembers records that were skipped since the keys of their signers are not known: agents become
// known one after the other when a program starts.
type strangers struct {
	mu      sync.Mutex
	records map[string]identity.ID // by key: who is not known
	news    chan struct{}
}

// maxStrange bounds the records that are remembered. Others are looked at when they change, or when somebody
// asks for them.
const maxStrange = 1 << 16

// keyPause is the time between two looks at who has become known.
const keyPause = time.Second

// note takes in why a record is skipped, and reports whether it is for now only.
func (s *strangers) note(key string, err error) bool {
	stranger, ok := errors.AsType[*strangerError](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		delete(s.records, key)
		return false
	}
	if s.records == nil {
		s.records = map[string]identity.ID{}
	}
	if len(s.records) < maxStrange {
		s.records[key] = stranger.agent
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
	return true
}

// met returns the keys of records whose signers are known by now.
func (s *strangers) met(v *Verifier) (keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, agent := range s.records {
		if v.knows(agent) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (s *strangers) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, strange := s.records[key]
	return strange
}

func (s *strangers) some() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records) > 0
}

// awaitKeys looks again at records whose signers become known, until ctx is done. While there are none, it
// sleeps.
func (m *Manager) awaitKeys(ctx context.Context) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.strangers.news:
		}
		for m.strangers.some() {
			tick.Reset(keyPause)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			m.meet(ctx)
		}
	}
}

// meet takes in the records whose signers are known by now.
func (m *Manager) meet(ctx context.Context) {
	for _, key := range m.strangers.met(m.verifier) {
		for again := true; again; {
			again = m.lookAgain(ctx, key)
		}
	}
}

// lookAgain takes in a record that the watch has gone past. What it has read may be old by the time that it is
// in the index, and the watch will not say so; then it is to be done again. Where the store cannot be asked, the
// record stays among the strange ones.
func (m *Manager) lookAgain(ctx context.Context, key string) (again bool) {
	e, err := m.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		m.strangers.note(key, nil)
	}
	if err != nil {
		return false
	}
	r := m.decode(e)
	if r == nil {
		return false
	}
	if !r.status.Terminal() {
		m.restore(r)
	}
	if now, err := m.store.Get(ctx, key); errors.Is(err, store.ErrNotFound) || err == nil && now.Revision != e.Revision {
		m.forget(r)
		return true
	}
	m.tell(r)
	return false
}

// restore enters a record that the watch has gone past.
func (m *Manager) restore(r *record) {
	if x := m.index.Load(); x != nil && x.restore(r) {
		m.checkAlarm(r)
	}
}
