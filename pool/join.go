package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// Join makes an agent a member of a pool, if the pool admits it; token is nil where none is asked for. An
// agent that is a member already stays what it is. Errors: [ErrNotAdmitted], [ErrFull] if the pool has no seat,
// [ErrNotFound], [ErrDissolved], [ErrInvalid], or the store's.
func (m *Manager) Join(ctx context.Context, member *identity.Identity, name string, token Token) (Membership, error) {
	for range maxAttempts {
		s, err := m.tryJoin(ctx, member, name, token)
		if err == nil {
			return s.clone(), nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return Membership{}, poolError("join", name, err)
		}
	}
	return Membership{}, poolError("join", name, store.ErrConflict)
}

func (m *Manager) tryJoin(ctx context.Context, member *identity.Identity, name string, token Token) (*Membership, error) {
	d, _, err := m.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := m.mayJoin(d, member); err != nil {
		return nil, err
	}
	seat, err := m.memberOf(ctx, name, member.ID())
	if err != nil || seat != nil && m.stands(seat) {
		return seat, err
	}
	proof, err := m.admission(ctx, d, member.ID(), token)
	if err != nil {
		return nil, err
	}
	if seat == nil {
		if err := m.roomForMember(name); err != nil {
			return nil, err
		}
	}
	s := m.newMembership(d, member)
	s.proof = proof
	if err := m.announce(ctx, member, s); err != nil {
		return nil, err
	}
	return s, m.keepSeat(ctx, member, name)
}

// stands reports whether the key still counts that a member has signed with.
func (m *Manager) stands(s *Membership) bool {
	by := s.author()
	return m.standing(&by) == nil
}

// mayJoin holds what counts whatever the pool's admission is.
func (m *Manager) mayJoin(d *Definition, member *identity.Identity) error {
	id := member.ID()
	by, err := authorOf(member)
	if err == nil {
		err = m.standing(&by)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	if slices.Contains(d.Expelled, id) {
		return fmt.Errorf("%w: its owner has expelled agent %s", ErrNotAdmitted, id.Short())
	}
	if !m.isTrusted(d, id) {
		return fmt.Errorf("%w: agent %s is not trusted as much as it asks for, %v", ErrNotAdmitted, id.Short(), d.Trust)
	}
	return nil
}

// admission returns the proof that goes into the membership of an agent that is admitted, if there is one.
func (m *Manager) admission(ctx context.Context, d *Definition, member identity.ID, token Token) (proof []byte, err error) {
	if member == d.Owner {
		return nil, nil
	}
	switch d.Admission {
	case Open:
		return nil, nil
	case Allowlist:
		if slices.Contains(d.Allowlist, member) {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: agent %s is not on its list", ErrNotAdmitted, member.Short())
	case ByToken:
		return d.prove(token, member)
	case Custom:
		return nil, m.ask(ctx, Candidate{Pool: d.clone(), Member: member, Token: token, Joining: true})
	}
	return nil, ErrNotAdmitted
}

// memberOf returns what makes the agent a member of the pool, as the store has it; nil if nothing does.
func (m *Manager) memberOf(ctx context.Context, name string, id identity.ID) (*Membership, error) {
	if err := m.sync(ctx, name); err != nil {
		return nil, err
	}
	if _, err := m.lastWord(ctx, name, id); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if g := m.state.groups[name]; g != nil && g.has(g.members[id]) {
		return g.members[id].m, nil
	}
	return nil, nil
}

func (m *Manager) roomForMember(name string) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	g := m.state.groups[name]
	if g == nil || g.d == nil {
		return fmt.Errorf("%w: this manager knows too many pools", ErrFull)
	}
	if g.count >= g.d.MaxMembers {
		return fmt.Errorf("%w: the pool has %d members", ErrFull, g.d.MaxMembers)
	}
	return nil
}

func (m *Manager) newMembership(d *Definition, member *identity.Identity) *Membership {
	return &Membership{
		Pool: d.Name, Owner: d.Owner, Network: m.network, Member: member.ID(), Issued: m.stamp(),
	}
}

// announce signs a membership, in sequence, and writes it in place of the agent's last one.
func (m *Manager) announce(ctx context.Context, member *identity.Identity, s *Membership) error {
	key := m.memberKey(s.Pool, s.Member)
	old, err := m.store.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	last, err := m.lastWord(ctx, s.Pool, s.Member)
	if err != nil {
		return err
	}
	s.Sequence = nextSequence(0, s.Issued)
	if last != nil {
		s.Sequence = nextSequence(last.Sequence, s.Issued)
	}
	raw, err := s.sign(member)
	if err != nil {
		return err
	}
	return m.write(ctx, key, raw, old.Revision)
}

// keepSeat makes sure that others who joined at the same time have not taken the last seat; an agent that has
// none leaves.
func (m *Manager) keepSeat(ctx context.Context, member *identity.Identity, name string) error {
	if err := m.readMembers(ctx, name, 0); err != nil {
		return err
	}
	m.mu.RLock()
	g := m.state.groups[name]
	seated := g != nil && g.has(g.members[member.ID()])
	m.mu.RUnlock()
	if seated {
		return nil
	}
	if err := m.leave(ctx, member, name); err != nil {
		return err
	}
	return fmt.Errorf("%w: others have taken the last seat", ErrFull)
}

// Leave ends an agent's membership. It returns [ErrNotMember] if there is none to end.
func (m *Manager) Leave(ctx context.Context, member *identity.Identity, name string) error {
	err := m.leave(ctx, member, name)
	for range maxAttempts {
		if !errors.Is(err, store.ErrConflict) {
			break
		}
		err = m.leave(ctx, member, name)
	}
	if err != nil {
		return poolError("leave", name, err)
	}
	m.prune(ctx, name)
	return nil
}

// leave publishes that the agent has left, also if it is not admitted any more: it may be again.
func (m *Manager) leave(ctx context.Context, member *identity.Identity, name string) error {
	if err := checkName("Name", name); err != nil {
		return err
	}
	old, err := m.lastWord(ctx, name, member.ID())
	if err != nil {
		return err
	}
	if old == nil || old.Left {
		return ErrNotMember
	}
	s := *old
	s.Left, s.proof, s.Issued = true, nil, m.stamp()
	return m.announce(ctx, member, &s)
}

// lastWord returns the last that an agent has said of its membership, also if the store has something else in
// its place; nil if nothing.
func (m *Manager) lastWord(ctx context.Context, name string, id identity.ID) (*Membership, error) {
	e, err := m.store.Get(ctx, m.memberKey(name, id))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		m.learn(e)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if g := m.state.groups[name]; g != nil && g.members[id] != nil {
		return g.members[id].m, nil
	}
	return nil, nil
}

// prune takes out of the store what the longest gone of a pool have left behind, where many are gone.
func (m *Manager) prune(ctx context.Context, name string) {
	m.mu.RLock()
	most := m.state.gone
	var gone []*entry
	if g := m.state.groups[name]; g != nil && len(g.members) > m.state.gone {
		gone = g.gone(func(e *entry) bool { return e.there && e.m.Left })
	}
	m.mu.RUnlock()
	for _, e := range gone[:max(len(gone)-most, 0)] {
		if err := m.store.Delete(ctx, m.memberKey(name, e.m.Member), e.revision); err != nil {
			m.log.Debug("the record of an agent that has left a pool stays", "error", err)
		}
	}
}
