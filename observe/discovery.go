package observe

import (
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
)

// Discovery is what [Metrics] asks about the agents that are known; a [discovery.Service] is one.
type Discovery interface{ Stats() discovery.Stats }

// Gossip is what [Metrics] asks about discovery by messages; a [gossip.Gossip] is one.
type Gossip interface{ Stats() gossip.Stats }

// AddDiscovery includes a service of discovery.
func (m *Metrics) AddDiscovery(d Discovery) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.discovery = append(m.discovery, d)
}

// AddGossip includes discovery by messages.
func (m *Metrics) AddGossip(g Gossip) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gossip = append(m.gossip, g)
}

// discoveryStats returns the sums; nil where there is none.
func (m *Metrics) discoveryStats() (known *discovery.Stats, told *gossip.Stats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, d := range m.discovery {
		if i == 0 {
			known = &discovery.Stats{}
		}
		s := d.Stats()
		known.Known += s.Known
		known.Refused += s.Refused
	}
	for i, g := range m.gossip {
		if i == 0 {
			told = &gossip.Stats{}
		}
		addGossip(told, g.Stats())
	}
	return known, told
}

func addGossip(sum *gossip.Stats, s gossip.Stats) {
	sum.Sent += s.Sent
	sum.Dropped += s.Dropped
	sum.Malformed += s.Malformed
	sum.Taken += s.Taken
	sum.Old += s.Old
	sum.Refused += s.Refused
}

// discoveryMetrics are of finding agents.
var discoveryMetrics = []metric{
	gauge("converge_discovery_agents", "Agents that are known, those that have left included until nothing of them can be replayed.",
		found(func(s discovery.Stats) uint64 { return uint64(s.Known) })),
	counter("converge_discovery_refused_total", "Descriptors of new agents for which there was no room.", "",
		found(func(s discovery.Stats) uint64 { return s.Refused })),
	counter("converge_gossip_messages_total", "Messages about agents by event.", "event", gossipMessages),
	counter("converge_gossip_items_total", "Descriptors and key statements in them by outcome.", "outcome", gossipItems),
}

func found(get func(discovery.Stats) uint64) reader {
	return func(s sample, emit func(float64, ...string)) {
		if s.known != nil {
			emit(float64(get(*s.known)))
		}
	}
}

func gossipMessages(s sample, emit func(float64, ...string)) {
	if s.told != nil {
		emit(float64(s.told.Sent), "sent")
		emit(float64(s.told.Dropped), "dropped")
		emit(float64(s.told.Malformed), "malformed")
	}
}

func gossipItems(s sample, emit func(float64, ...string)) {
	if s.told != nil {
		emit(float64(s.told.Taken), "taken")
		emit(float64(s.told.Old), "old")
		emit(float64(s.told.Refused), "refused")
	}
}
