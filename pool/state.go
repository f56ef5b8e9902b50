package pool

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// state is what a manager has seen of the pools of its network: the newest statement of each owner and each
// member, also of those that the store no longer shows, so that none of them can be gone back on. It wants the
// manager's lock.
type state struct {
	admits func(*Definition, *entry) bool // whether the owner would have this member, seats aside
	groups map[string]*group
	of     map[identity.ID]map[string]*entry // by member and pool
	most   int                               // groups
	gone   int                               // of each pool; see maxGone
}

// version is what is known of where a statement stands.
type version struct {
	sum        [sha256.Size]byte // of the signed bytes
	revision   store.Revision    // of the last change that was taken in
	there      bool              // the store has it
	generation uint64            // the last pass over the store that showed it
}

// group is a pool.
type group struct {
	version
	name    string
	d       *Definition // never changed once it is here; nil if none was seen
	members map[identity.ID]*entry
	count   int            // members that count
	last    store.Revision // of those that have a seat
}

// entry is what an agent has said of its membership.
type entry struct {
	version
	m      *Membership        // never changed once it is here
	proven [tokenKeySize]byte // the token's key that has signed m, as far as that was checked
	counts bool               // the owner would have it, seats aside
}

func newState(most int, admits func(*Definition, *entry) bool) *state {
	return &state{admits: admits, groups: map[string]*group{}, of: map[identity.ID]map[string]*entry{}, most: most, gone: maxGone}
}

// group returns the group of a name, and makes it if there is room.
func (s *state) group(name string) (*group, error) {
	if g := s.groups[name]; g != nil {
		return g, nil
	}
	if len(s.groups) >= s.most && !s.dropEmpty() {
		return nil, fmt.Errorf("%w: %d pools are known", ErrFull, s.most)
	}
	g := &group{name: name, members: map[identity.ID]*entry{}}
	s.groups[name] = g
	return g, nil
}

// dropEmpty forgets a group that nobody has defined.
func (s *state) dropEmpty() bool {
	for name, g := range s.groups {
		if g.d == nil {
			s.dropMembers(g)
			delete(s.groups, name)
			return true
		}
	}
	return false
}

func (s *state) dropMembers(g *group) {
	for id := range g.members {
		s.drop(g, id)
	}
}

func (s *state) drop(g *group, id identity.ID) {
	if g.members[id].counts {
		g.count--
	}
	delete(g.members, id)
	delete(s.of[id], g.name)
	if len(s.of[id]) == 0 {
		delete(s.of, id)
	}
}

// shows takes in that the store has, at this revision, what is known already. It reports whether that is no
// news.
func (v *version) shows(sum [sha256.Size]byte, rev store.Revision, generation uint64) (known bool) {
	v.generation = max(v.generation, generation)
	if sum != v.sum || v.there && v.revision == rev {
		return sum == v.sum
	}
	v.there, v.revision = true, rev
	return false
}

// define takes in a definition. The error says why it does not count.
func (s *state) define(d *Definition, sum [sha256.Size]byte, rev store.Revision, generation uint64) (changed bool, err error) {
	g, err := s.group(d.Name)
	if err != nil || rev < g.revision {
		return false, err
	}
	if g.shows(sum, rev, generation) {
		return false, nil
	}
	if g.d != nil && sum != g.sum {
		if err := g.d.yields(d); err != nil {
			return false, err
		}
	}
	g.d, g.version = d, version{sum, rev, true, generation}
	if d.Dissolved {
		s.dropMembers(g)
	}
	s.recount(g)
	return true, nil
}

// yields reports why next does not take the place of d.
func (d *Definition) yields(next *Definition) error {
	switch {
	case next.Owner != d.Owner:
		return fmt.Errorf("%w: agent %s owns it, and not %s", ErrStale, d.Owner.Short(), next.Owner.Short())
	case d.Dissolved:
		return fmt.Errorf("%w: %w", ErrStale, ErrDissolved)
	case next.Sequence <= d.Sequence:
		return fmt.Errorf("%w: sequence %d after %d", ErrStale, next.Sequence, d.Sequence)
	}
	return nil
}

// enter takes in a membership. The error says why it does not count.
func (s *state) enter(m *Membership, sum [sha256.Size]byte, rev store.Revision, generation uint64) (changed bool, err error) {
	g, err := s.group(m.Pool)
	if err != nil || g.d != nil && g.d.Dissolved {
		return false, err
	}
	e := g.members[m.Member]
	switch {
	case e == nil:
		if e, err = s.newEntry(g, m.Member); err != nil {
			return false, err
		}
	case rev < e.revision, e.shows(sum, rev, generation):
		return false, nil
	case sum != e.sum && m.Sequence <= e.m.Sequence:
		return false, fmt.Errorf("%w: sequence %d of member %s after %d", ErrStale, m.Sequence, m.Member.Short(), e.m.Sequence)
	}
	e.m, e.version, e.proven = m, version{sum, rev, true, generation}, [tokenKeySize]byte{}
	s.count(g, e)
	g.seat()
	return true, nil
}

// maxGone is how many of those who have left a pool are remembered, so that what they said before cannot be
// shown again.
const maxGone = 4096

func (g *group) most() int {
	if g.d == nil {
		return DefaultMaxMembers
	}
	return g.d.MaxMembers
}

func (s *state) newEntry(g *group, id identity.ID) (*entry, error) {
	limit := 2*g.most() + s.gone
	if len(g.members) >= limit && !s.forgetGone(g, limit/4) {
		return nil, fmt.Errorf("%w: %d agents are known of the pool", ErrFull, limit)
	}
	e := &entry{}
	g.members[id] = e
	if s.of[id] == nil {
		s.of[id] = map[string]*entry{}
	}
	s.of[id][g.name] = e
	return e, nil
}

// forgetGone forgets up to n of those who do not count, the longest ago first.
func (s *state) forgetGone(g *group, n int) bool {
	gone := g.gone(func(e *entry) bool { return !e.counts })
	for _, e := range gone[:min(n, len(gone))] {
		s.drop(g, e.m.Member)
	}
	return len(gone) > 0
}

// gone returns those that are chosen, the oldest statements first.
func (g *group) gone(chosen func(*entry) bool) (gone []*entry) {
	for _, e := range g.members {
		if chosen(e) {
			gone = append(gone, e)
		}
	}
	slices.SortFunc(gone, func(a, b *entry) int { return a.m.Issued.Compare(b.m.Issued) })
	return gone
}

// count finds out whether a member counts.
func (s *state) count(g *group, e *entry) {
	if e.counts {
		g.count--
	}
	e.counts = e.there && !e.m.Left && g.isOpen() && e.m.Owner == g.d.Owner && s.admits(g.d, e)
	if e.counts {
		g.count++
	}
}

func (g *group) isOpen() bool { return g.d != nil && g.there && !g.d.Dissolved }

func (s *state) recount(g *group) {
	for _, e := range g.members {
		s.count(g, e)
	}
	g.seat()
}

// seat gives the seats that there are to those who came first, as the store has it.
func (g *group) seat() {
	g.last = math.MaxUint64
	if g.d == nil || g.count <= g.d.MaxMembers {
		return
	}
	var all []store.Revision
	for _, e := range g.members {
		if e.counts {
			all = append(all, e.revision)
		}
	}
	slices.Sort(all)
	g.last = all[g.d.MaxMembers-1]
}

func (g *group) has(e *entry) bool { return e != nil && e.counts && e.revision <= g.last }

// vanish takes in that the store no longer has something. What was said stays known.
func (s *state) vanish(name string, member identity.ID, rev store.Revision) (changed bool) {
	g := s.groups[name]
	if g == nil {
		return false
	}
	if member.IsZero() {
		changed = g.leave(rev)
		s.recount(g)
		return changed
	}
	e := g.members[member]
	if e == nil {
		return false
	}
	changed = e.leave(rev)
	s.count(g, e)
	g.seat()
	return changed
}

// touch takes in that the store has something that counts for nothing where there was something that does:
// what is known stays, so that rubbish takes nobody's place.
func (s *state) touch(name string, member identity.ID, generation uint64) {
	if v := s.at(name, member); v != nil {
		v.generation = max(v.generation, generation)
	}
}

// at returns what is known of the statement of a member, or, if there is none, of the owner; nil if nothing.
func (s *state) at(name string, member identity.ID) *version {
	g := s.groups[name]
	if g == nil {
		return nil
	}
	if member.IsZero() {
		return &g.version
	}
	if e := g.members[member]; e != nil {
		return &e.version
	}
	return nil
}

func (v *version) leave(rev store.Revision) bool {
	if !v.there || rev < v.revision {
		return false
	}
	v.there, v.revision = false, rev
	return true
}

// vanishUnseen takes in that a whole pass over the store did not show something. It returns whose pools have
// changed.
func (s *state) vanishUnseen(generation uint64, at store.Revision) (changed []string) {
	for name, g := range s.groups {
		if s.vanishUnseenOf(g, generation, at) {
			changed = append(changed, name)
		}
	}
	return changed
}

func (s *state) vanishUnseenOf(g *group, generation uint64, at store.Revision) bool {
	unseen := func(v *version) bool { return v.generation < generation && v.revision <= at && v.leave(v.revision) }
	changed := unseen(&g.version)
	for _, e := range g.members {
		changed = unseen(&e.version) || changed
	}
	if changed {
		s.recount(g)
	}
	return changed
}

// names returns the names of pools that are not dissolved, in order.
func (s *state) names() (names []string) {
	for name, g := range s.groups {
		if g.isOpen() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// seated returns those who have a seat, in the order of their IDs.
func (g *group) seated() []*Membership {
	var all []*Membership
	for e := range maps.Values(g.members) {
		if g.has(e) {
			all = append(all, e.m)
		}
	}
	slices.SortFunc(all, func(a, b *Membership) int { return compareIDs(a.Member, b.Member) })
	return all
}

// nextSequence returns a sequence that rises even if the store has lost the last one.
func nextSequence(previous uint64, now time.Time) uint64 {
	return max(previous+1, uint64(max(now.UnixMilli(), 1)))
}

// statusOf returns the error that a pool's state is.
func (g *group) statusOf() error {
	switch {
	case g == nil || g.d == nil:
		return ErrNotFound
	case g.d.Dissolved:
		return ErrDissolved
	case !g.there:
		return ErrNotFound
	}
	return nil
}
