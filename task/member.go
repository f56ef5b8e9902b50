package task

import "github.com/converge-agents/converge/identity"

// admits reports whether an agent may have to do with the tasks of a pool; without a pool everybody may.
func (m *Manager) admits(pool string, agent identity.ID) bool {
	return pool == "" || m.member != nil && m.member(pool, agent)
}

// ofMember lets a transition pass if the agent is a member of the task's pool.
func (m *Manager) ofMember(agent identity.ID) func(*record, error) (*record, error) {
	return func(next *record, err error) (*record, error) {
		if err == nil && !m.admits(next.spec.Pool, agent) {
			return nil, ErrNotMember
		}
		return next, err
	}
}

// poolsOf returns those of a profile's pools that its agent is a member of, whatever the profile says.
func (m *Manager) poolsOf(p *Profile) (pools []string) {
	for _, pool := range p.Pools {
		if m.admits(pool, p.Agent) {
			pools = append(pools, pool)
		}
	}
	return pools
}
