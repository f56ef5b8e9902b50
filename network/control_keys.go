package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
)

// Quarantined implements [control.Keys].
func (o operator) Quarantined(context.Context) ([]control.Quarantine, error) {
	all := []control.Quarantine{}
	for _, q := range o.quarantined() {
		all = append(all, o.describeQuarantine(q))
	}
	return all, nil
}

// quarantined returns who is quarantined for the agents of this process, or for its discovery, in the order of their IDs.
func (n *Network) quarantined() []identity.Quarantine {
	byID := map[identity.ID]identity.Quarantine{}
	for _, q := range slices.Concat(n.discovery.Quarantined(), n.registry.Quarantined()) {
		byID[q.ID] = q
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b identity.Quarantine) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

func (o operator) describeQuarantine(q identity.Quarantine) control.Quarantine {
	d := control.Quarantine{
		Agent: o.names[q.ID], ID: q.ID.String(), Since: q.Since.UTC(), Why: q.Why(),
		Counts: string(identity.EncodeStatement(q.Statement)), Contrary: string(identity.EncodeStatement(q.Contrary)),
	}
	if s, err := identity.OpenKeys(q.Statement); err == nil {
		d.Epoch = s.Epoch
	}
	return d
}

// ReleaseAgent implements [control.Keys].
func (o operator) ReleaseAgent(ctx context.Context, agent string, by control.Author) (control.Quarantine, error) {
	id, err := o.agentCalled(agent)
	if err != nil {
		return control.Quarantine{}, fmt.Errorf("release %w", err)
	}
	all := o.quarantined()
	i := slices.IndexFunc(all, func(q identity.Quarantine) bool { return q.ID == id })
	if i < 0 {
		return control.Quarantine{}, &told{fmt.Errorf("release agent %.80q: it is not quarantined", agent), control.ErrState}
	}
	err = o.do(ctx, act{action: "release_agent", subject: id.String(), peer: id}, by, func() error {
		if here, found := o.registry.Release(id), o.discovery.Release(id); !here && !found {
			return &told{fmt.Errorf("release agent %.80q: somebody else was first", agent), control.ErrState}
		}
		return nil
	})
	return o.describeQuarantine(all[i]), err
}

// ApplyStatement implements [control.Keys].
func (o operator) ApplyStatement(ctx context.Context, text string, by control.Author) (control.Applied, error) {
	raw, err := identity.DecodeStatement([]byte(text))
	if err != nil {
		return control.Applied{}, &told{fmt.Errorf("apply key statement: %w", err), control.ErrInvalid}
	}
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return control.Applied{}, &told{err, control.ErrInvalid}
	}
	a := control.Applied{Agent: o.names[s.ID], ID: s.ID.String(), Epoch: s.Epoch, Revoked: s.Revoked}
	done := act{action: "apply_statement", subject: a.ID, peer: s.ID, urgent: s.Revoked}
	if s.Revoked {
		done.action = "revoke_agent"
	}
	err = o.do(ctx, done, by, func() (err error) {
		a.Changed, err = o.registry.Apply(raw)
		return err
	})
	if err != nil {
		return control.Applied{}, err
	}
	return o.passOn(ctx, raw, a), nil
}

// passOn has a statement that is in force here outlive the process, and tells others.
func (o operator) passOn(ctx context.Context, raw []byte, a control.Applied) control.Applied {
	var errs []error
	if path, err := o.keys.keep(raw); err != nil {
		errs = append(errs, fmt.Errorf("it is not in the folder of statements: %w", err))
	} else {
		a.File = path
	}
	err := o.discovery.PublishStatement(ctx, raw)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("others are not told: %w", err))
	case o.gossip != nil:
		a.Told = control.ToldByMessages
	case o.config.StoreShared():
		a.Told = control.ToldByStore
	}
	if err := errors.Join(errs...); err != nil {
		a.Untold = err.Error()
		o.log.Error("key statement is in force, but was not passed on", "agent", a.ID, "error", err)
	}
	return a
}

// keep puts a statement into the folder.
func (k *keyLife) keep(raw []byte) (path string, err error) {
	k.handing.Lock()
	defer k.handing.Unlock()
	if k.dir == "" {
		return "", nil
	}
	path, _, err = identity.ImportStatement(k.dir, raw)
	return path, err
}
