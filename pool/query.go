package pool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// sync reads a pool and its members, unless the store is followed anyway.
func (m *Manager) sync(ctx context.Context, name string) error {
	if m.isFollowing() {
		return nil
	}
	if err := checkName("Name", name); err != nil {
		return err
	}
	pass := m.nextPass()
	e, err := m.store.Get(ctx, m.definitionKey(name))
	switch {
	case err == nil:
		m.take(e, pass)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := m.readMembers(ctx, name, pass); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.state.groups[name]; g != nil && !m.following {
		m.state.vanishUnseenOf(g, pass, math.MaxUint64)
	}
	return nil
}

func (m *Manager) isFollowing() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.following
}

// readMembers reads the members of a pool.
func (m *Manager) readMembers(ctx context.Context, name string, pass uint64) error {
	for e, err := range m.store.List(ctx, m.memberPrefix(name)) {
		if err != nil {
			return err
		}
		m.take(e, pass)
	}
	return nil
}

// syncDefinitions reads all pools, without their members, unless the store is followed anyway.
func (m *Manager) syncDefinitions(ctx context.Context) error {
	if m.isFollowing() {
		return nil
	}
	for e, err := range m.store.List(ctx, store.Key(folder, m.network, definitions)+"/") {
		if err != nil {
			return err
		}
		m.take(e, 0)
	}
	return nil
}

// Get returns a pool, also one that was dissolved. It returns [ErrNotFound] if there is none.
func (m *Manager) Get(ctx context.Context, name string) (Definition, error) {
	if err := m.sync(ctx, name); err != nil {
		return Definition{}, poolError("get", name, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	g := m.state.groups[name]
	if err := g.statusOf(); err != nil && !errors.Is(err, ErrDissolved) {
		return Definition{}, poolError("get", name, err)
	}
	return g.d.clone(), nil
}

// List returns the pools that have not been dissolved, in the order of their names.
func (m *Manager) List(ctx context.Context) ([]Definition, error) {
	if err := m.syncDefinitions(ctx); err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []Definition
	for _, name := range m.state.names() {
		all = append(all, m.state.groups[name].d.clone())
	}
	return all, nil
}

// Members returns the members of a pool, in the order of their IDs. It returns [ErrNotFound] or
// [ErrDissolved] if there is no such pool.
func (m *Manager) Members(ctx context.Context, name string) ([]Membership, error) {
	if err := m.sync(ctx, name); err != nil {
		return nil, poolError("members of", name, err)
	}
	members, err := m.members(name)
	if err != nil {
		return nil, poolError("members of", name, err)
	}
	return members, nil
}

func (m *Manager) members(name string) ([]Membership, error) {
	d, seated, err := m.seated(name)
	if err != nil {
		return nil, err
	}
	var members []Membership
	for _, s := range seated {
		if m.counts(d, s) {
			members = append(members, s.clone())
		}
	}
	return members, nil
}

func (m *Manager) seated(name string) (*Definition, []*Membership, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	g := m.state.groups[name]
	if err := g.statusOf(); err != nil {
		return nil, nil, err
	}
	return g.d, g.seated(), nil
}

// counts reports whether somebody who has a seat is a member now: what may change without a word of owner or
// member is asked each time.
func (m *Manager) counts(d *Definition, s *Membership) bool {
	owner := d.author()
	return m.standing(&owner) == nil && m.stands(s) && m.isTrusted(d, s.Member)
}

// lookTimeout bounds how long a question without context waits for the store.
const lookTimeout = 5 * time.Second

// look reads from the store unless somebody is attached: then nobody who asks waits for it.
func (m *Manager) look(read func(context.Context) error) error {
	m.mu.RLock()
	attached := m.attached
	m.mu.RUnlock()
	if attached {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	return read(ctx)
}

// IsMember reports whether an agent is a member of a pool. While somebody is attached it answers from memory;
// otherwise it reads the pool from the store, and if it cannot within five seconds, the answer is no.
func (m *Manager) IsMember(name string, id identity.ID) bool {
	if err := m.look(func(ctx context.Context) error { return m.sync(ctx, name) }); err != nil {
		m.log.Warn("whether an agent is a member cannot be told, so it is none", "pool", fmt.Sprintf("%.80q", name), "error", err)
		return false
	}
	m.mu.RLock()
	g := m.state.groups[name]
	if g == nil || !g.has(g.members[id]) {
		m.mu.RUnlock()
		return false
	}
	d, s := g.d, g.members[id].m
	m.mu.RUnlock()
	return m.counts(d, s)
}

// Pools returns the names of the pools that an agent is a member of, in order. While nobody is attached, it
// reads all pools from the store.
func (m *Manager) Pools(id identity.ID) []string {
	var names []string
	for _, name := range m.candidatePools(id) {
		if m.IsMember(name, id) {
			names = append(names, name)
		}
	}
	return names
}

func (m *Manager) candidatePools(id identity.ID) []string {
	if err := m.look(m.syncDefinitions); err != nil {
		m.log.Warn("which pools an agent is a member of cannot be told, so there are none", "error", err)
		return nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.attached {
		return m.state.names()
	}
	var names []string
	for name := range m.state.of[id] {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Topics returns the topics of the pools that an agent is a member of, in order.
func (m *Manager) Topics(id identity.ID) (topics []message.Topic) {
	for _, name := range m.Pools(id) {
		for _, topic := range m.topicsOf(name) {
			if t, err := Topic(name, topic); err == nil {
				topics = append(topics, t)
			}
		}
	}
	return topics
}

func (m *Manager) topicsOf(name string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if g := m.state.groups[name]; g.statusOf() == nil {
		return g.d.Topics
	}
	return nil
}

// Event is a step of a [Manager.Watch].
type Event struct {
	Member identity.ID
	Joined bool // otherwise it has gone
}

// Watch yields the members of a pool as having joined, and then those who join and who go: because they leave,
// or since the owner no longer has them. Where several changes follow each other closely, only the outcome may
// be told. What only Config.Trust and Config.Keys know is looked at whenever the pool changes.
//
// The sequence blocks for as long as nothing happens. It ends when the loop breaks, or with one error: the
// context's cause, [ErrNotFound], or [ErrDissolved] once all have gone.
func (m *Manager) Watch(ctx context.Context, name string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		changed := make(chan struct{}, 1)
		detach := m.Attach(func(c Change) {
			if c.Pool == name {
				select {
				case changed <- struct{}{}:
				default: // one is enough
				}
			}
		})
		defer detach()
		err := m.sync(ctx, name) // if it cannot be followed yet
		for told := map[identity.ID]bool{}; err == nil; err = wait(ctx, changed) {
			if err = m.tellMembers(name, told, yield); err != nil {
				break
			}
		}
		if err != errStop {
			yield(Event{}, poolError("watch", name, err))
		}
	}
}

// errStop says that the loop over a sequence has ended.
var errStop = errors.New("stop")

func wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tellMembers yields by how much the members differ from those that were told.
func (m *Manager) tellMembers(name string, told map[identity.ID]bool, yield func(Event, error) bool) error {
	members, err := m.members(name)
	now := map[identity.ID]bool{}
	for _, s := range members {
		now[s.Member] = true
		if !told[s.Member] && !yield(Event{s.Member, true}, nil) {
			return errStop
		}
		told[s.Member] = true
	}
	for id := range told {
		if !now[id] && !yield(Event{Member: id}, nil) {
			return errStop
		}
		if !now[id] {
			delete(told, id)
		}
	}
	return err
}
