package pool

// RememberGone has a manager remember fewer of those who have left a pool than it would.
func (m *Manager) RememberGone(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.gone = n
}

// Known returns how many agents a manager knows of a pool, members or not.
func (m *Manager) Known(name string) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.state.groups[name].members)
}
