package identity

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// Quarantine is an agent of which nothing counts, since its root key contradicts itself.
type Quarantine struct {
	ID    ID
	Since time.Time // when this process has seen the contradiction: at its start, for one that it has from a store
	// Statement is the signed statement that counts once the agent is released, and Contrary the one that
	// contradicts it.
	Statement, Contrary []byte
}

// Why says in a few words what the two statements disagree about.
func (q Quarantine) Why() string {
	one, err := OpenKeys(q.Statement)
	if err != nil {
		return err.Error()
	}
	other, err := OpenKeys(q.Contrary)
	switch {
	case err != nil:
		return err.Error()
	case one.Sequence == other.Sequence:
		return fmt.Sprintf("two statements have the number %d", one.Sequence)
	default:
		return fmt.Sprintf("two keys are stated for one epoch (statements %d and %d)", one.Sequence, other.Sequence)
	}
}

// Quarantined returns the agents that are quarantined, in the order of their IDs.
func (r *Registry) Quarantined() []Quarantine {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Quarantine
	for id, e := range r.agents {
		if e.life == nil || e.life.standing() == nil {
			continue
		}
		all = append(all, Quarantine{ID: id, Since: e.life.since, Statement: []byte(e.life.raw), Contrary: []byte(e.life.other)})
	}
	slices.SortFunc(all, func(a, b Quarantine) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}
