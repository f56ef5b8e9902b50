package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

// maxAttempts bounds how often a change is tried against others that change the same record.
const maxAttempts = 16

// stamp returns the time as it is signed.
func (m *Manager) stamp() time.Time { return m.now().Truncate(time.Millisecond).UTC() }

// Create signs and publishes a new pool of the owner's, who is no member until it joins. It returns
// [ErrExists] if a pool has or has had the name.
func (m *Manager) Create(ctx context.Context, owner *identity.Identity, s Spec) (Definition, error) {
	d, err := m.create(ctx, owner, s)
	if err != nil {
		return Definition{}, poolError("create", s.Name, err)
	}
	return d.clone(), nil
}

func (m *Manager) create(ctx context.Context, owner *identity.Identity, s Spec) (*Definition, error) {
	s, err := s.checked()
	if err != nil {
		return nil, err
	}
	if err := m.roomForPool(ctx, s.Name); err != nil {
		return nil, err
	}
	now := m.stamp()
	d := &Definition{
		Spec: s, Network: m.network, Owner: owner.ID(),
		Sequence: nextSequence(0, now), Created: now, Issued: now,
	}
	if err := d.takeToken(); err != nil {
		return nil, err
	}
	err = m.publish(ctx, owner, d, 0)
	if errors.Is(err, store.ErrConflict) {
		return nil, ErrExists
	}
	return d, err
}

// takeToken moves a token out of the Spec, into the key that it derives to.
func (d *Definition) takeToken() error {
	t := d.Token
	d.Token = nil
	if d.Admission != ByToken {
		d.salt, d.tokenKey = nil, nil
		return nil
	}
	if len(t) == 0 && d.tokenKey != nil {
		return nil
	}
	return d.setToken(t)
}

// roomForPool counts the pools, and makes sure that none is known by the name that the store withholds.
func (m *Manager) roomForPool(ctx context.Context, name string) error {
	if err := m.syncDefinitions(ctx); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if g := m.state.groups[name]; g != nil && g.d != nil {
		return ErrExists
	}
	if n := len(m.state.names()); n >= m.maxPools || len(m.state.groups) >= m.state.most {
		return fmt.Errorf("%w: the network has %d pools, and %d with those that were", ErrFull, n, len(m.state.groups))
	}
	return nil
}

// publish signs a definition and writes it in place of what is at a revision.
func (m *Manager) publish(ctx context.Context, owner *identity.Identity, d *Definition, rev store.Revision) error {
	raw, err := d.sign(owner)
	if err != nil {
		return err
	}
	return m.write(ctx, m.definitionKey(d.Name), raw, rev)
}

// write writes a record, and has this manager know of it at once.
func (m *Manager) write(ctx context.Context, key string, raw []byte, rev store.Revision) error {
	written, err := m.store.Put(ctx, key, raw, rev)
	if err != nil {
		return err
	}
	m.learn(store.Entry{Key: key, Value: raw, Revision: written})
	return nil
}

// learn takes in what was read or written beside the watch.
func (m *Manager) learn(e store.Entry) {
	m.mu.RLock()
	pass := m.passes
	m.mu.RUnlock()
	if c, changed := m.take(e, pass); changed {
		m.listeners.Tell(c)
	}
}

// Edit changes a pool of the owner's. change gets what it is, and may be called several times; it cannot
// change the name. The error is change's, [ErrNotOwner], [ErrNotFound], [ErrDissolved], [ErrInvalid] or the
// store's.
func (m *Manager) Edit(ctx context.Context, owner *identity.Identity, name string, change func(*Spec) error) (Definition, error) {
	return m.edit(ctx, "edit", owner, name, func(d *Definition) error {
		if err := change(&d.Spec); err != nil {
			return err
		}
		if d.Name != name {
			return invalid("Name: a pool keeps its name")
		}
		var err error
		if d.Spec, err = d.Spec.checked(); err != nil {
			return err
		}
		return d.takeToken()
	})
}

// Expel takes a member out of a pool of the owner's, or keeps an agent from becoming one. Only [Manager.Pardon]
// lets it in again. An agent that makes itself another identity is another agent: who wants to keep somebody
// out does not leave the pool open.
func (m *Manager) Expel(ctx context.Context, owner *identity.Identity, name string, member identity.ID) error {
	_, err := m.edit(ctx, "expel from", owner, name, func(d *Definition) error {
		if member.IsZero() || member == d.Owner {
			return invalid("a pool's owner cannot be expelled, nor can nobody")
		}
		if len(d.Expelled) >= MaxListed {
			return fmt.Errorf("%w: %d agents are expelled; have the pool ask for a token or list its members", ErrFull, MaxListed)
		}
		d.Expelled = sortedSet(append(d.Expelled, member), compareIDs)
		return nil
	})
	return err
}

// Pardon undoes [Manager.Expel]. An agent that has not left since is a member again at once.
func (m *Manager) Pardon(ctx context.Context, owner *identity.Identity, name string, member identity.ID) error {
	_, err := m.edit(ctx, "pardon in", owner, name, func(d *Definition) error {
		d.Expelled = slices.DeleteFunc(d.Expelled, func(id identity.ID) bool { return id == member })
		return nil
	})
	return err
}

// Dissolve ends a pool of the owner's for good. It has no members from then on, and its name stays taken.
func (m *Manager) Dissolve(ctx context.Context, owner *identity.Identity, name string) error {
	_, err := m.edit(ctx, "dissolve", owner, name, func(d *Definition) error {
		d.Dissolved = true
		return nil
	})
	return err
}

func (m *Manager) edit(ctx context.Context, op string, owner *identity.Identity, name string, change func(*Definition) error) (Definition, error) {
	for range maxAttempts {
		d, err := m.tryEdit(ctx, owner, name, change)
		if err == nil {
			return d.clone(), nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return Definition{}, poolError(op, name, err)
		}
	}
	return Definition{}, poolError(op, name, store.ErrConflict)
}

func (m *Manager) tryEdit(ctx context.Context, owner *identity.Identity, name string, change func(*Definition) error) (*Definition, error) {
	old, rev, err := m.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if old.Owner != owner.ID() {
		return nil, ErrNotOwner
	}
	d := old.clone()
	if err := change(&d); err != nil {
		return nil, err
	}
	d.Issued = m.stamp()
	d.Sequence = nextSequence(old.Sequence, d.Issued)
	return &d, m.publish(ctx, owner, &d, rev)
}

// read returns a pool as the store has it now, unless that is forged, or older than what is known. A pool that
// was dissolved is an error.
func (m *Manager) read(ctx context.Context, name string) (*Definition, store.Revision, error) {
	if err := checkName("Name", name); err != nil {
		return nil, 0, err
	}
	e, err := m.store.Get(ctx, m.definitionKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	d, err := m.openDefinition(e.Value, name)
	if err != nil {
		return nil, 0, err
	}
	m.learn(e)
	if err := m.isNewest(d); err != nil {
		return nil, 0, err
	}
	if d.Dissolved {
		return nil, 0, ErrDissolved
	}
	by := d.author()
	return d, e.Revision, m.standing(&by)
}

// isNewest reports why a definition is not the newest that is known. One that cannot be kept is as good as
// any.
func (m *Manager) isNewest(d *Definition) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	g := m.state.groups[d.Name]
	if g == nil || g.d == nil || g.d.Owner == d.Owner && g.d.Sequence <= d.Sequence {
		return nil
	}
	return g.d.yields(d)
}
