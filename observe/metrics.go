package observe

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// Metrics is a [prometheus.Collector] over the agents of a process. It sums over them: no label ever
// holds an ID or a name that a peer can choose. Only models and servers have names, which the operator gives. Nothing is counted here: a scrape reads the counters
// that the runtimes keep anyway. It is safe for concurrent use.
//
//	reg.MustRegister(metrics)
type Metrics struct {
	mu       sync.Mutex
	runtimes []*converge.Runtime
	gone     []converge.Stats // at most one: the sum of those that were removed
	tasks    []*task.Manager
	wires    []transport.Reporter
	required []condition

	approvals []Approvals
	receipts  *audit.Log
	models    map[modelLabels][]Model
	servers   map[string]func() Server
	discovery []Discovery
	gossip    []Gossip
}

// NewMetrics returns a collector over no agents.
func NewMetrics() *Metrics { return &Metrics{} }

// Add includes an agent.
func (m *Metrics) Add(r *converge.Runtime) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runtimes = append(m.runtimes, r)
}

// AddTasks includes a task manager.
func (m *Metrics) AddTasks(t *task.Manager) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks = append(m.tasks, t)
}

// AddTransport includes a network's connections.
func (m *Metrics) AddTransport(r transport.Reporter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wires = append(m.wires, r)
}

// AddAudit includes the log of receipts, of which a process has one.
func (m *Metrics) AddAudit(l *audit.Log) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.receipts = l
}

// auditStats returns the counts of the log of receipts; ok is false if there is none.
func (m *Metrics) auditStats() (s audit.Stats, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.receipts == nil {
		return s, false
	}
	return m.receipts.Stats(), true
}

// Remove lets go of an agent that has stopped. What it counted stays in the sums, since counters never
// go down.
func (m *Metrics) Remove(r *converge.Runtime) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.runtimes, r)
	if i < 0 {
		return
	}
	m.runtimes = slices.Delete(m.runtimes, i, i+1)
	last := r.Stats()
	last.Inbox, last.Tools.Running, last.Tools.Waiting = 0, 0, 0
	m.gone = []converge.Stats{Sum(append(m.gone, last)...)}
}

// Stats returns the sum over all agents, past ones included.
func (m *Metrics) Stats() converge.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.gone)
	for _, r := range m.runtimes {
		all = append(all, r.Stats())
	}
	return Sum(all...)
}

func (m *Metrics) taskStats() task.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum task.Stats
	for _, t := range m.tasks {
		s := t.Stats()
		sum.Submitted += s.Submitted
		sum.Claimed += s.Claimed
		sum.Completed += s.Completed
		sum.Failed += s.Failed
		sum.Cancelled += s.Cancelled
		sum.Expired += s.Expired
		sum.Conflicts += s.Conflicts
		sum.Corrupt += s.Corrupt
		sum.Retried += s.Retried
		sum.DeadLettered += s.DeadLettered
		sum.Requeued += s.Requeued
		sum.Pruned += s.Pruned
	}
	return sum
}

// Transport returns the sum over all connections; its Refused is nil if there are no networks.
func (m *Metrics) Transport() transport.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []transport.Stats
	for _, w := range m.wires {
		all = append(all, w.Stats())
	}
	return sumTransport(all...)
}

func sumTransport(all ...transport.Stats) (sum transport.Stats) {
	for _, s := range all {
		sum.Connections += s.Connections
		sum.Opened += s.Opened
		sum.Closed += s.Closed
		sum.FramesIn += s.FramesIn
		sum.FramesOut += s.FramesOut
		sum.BytesIn += s.BytesIn
		sum.BytesOut += s.BytesOut
		sum.Lost += s.Lost
		if sum.Refused == nil {
			sum.Refused = map[string]uint64{}
		}
		addAll(sum.Refused, s.Refused)
	}
	return sum
}

// Sum adds up statistics.
func Sum(all ...converge.Stats) converge.Stats {
	sum := converge.Stats{
		Refused: map[string]uint64{}, Withdrawn: map[string]uint64{}, Ingress: map[string]uint64{}, Egress: map[string]uint64{},
		Hooks:     transport.HookStats{Dropped: map[string]uint64{}, Failed: map[string]uint64{}},
		Decisions: map[string]converge.DecisionStats{},
	}
	for _, s := range all {
		sum.Signed += s.Signed
		sum.Batches += s.Batches
		sum.Sealed += s.Sealed
		sum.Verified += s.Verified
		sum.Opened += s.Opened
		sum.Lost += s.Lost
		sum.Inbox += s.Inbox
		sum.Overflow += s.Overflow
		sum.Turns += s.Turns
		sum.Failed += s.Failed
		addAll(sum.Refused, s.Refused)
		addAll(sum.Withdrawn, s.Withdrawn)
		addAll(sum.Ingress, s.Ingress)
		addAll(sum.Egress, s.Egress)
		addAll(sum.Hooks.Dropped, s.Hooks.Dropped)
		addAll(sum.Hooks.Failed, s.Hooks.Failed)
		for kind, d := range s.Decisions {
			total := sum.Decisions[kind]
			total.Done += d.Done
			total.Failed += d.Failed
			sum.Decisions[kind] = total
		}
		sum.Tools = sum.Tools.Plus(s.Tools)
		sum.TurnTimes = sum.TurnTimes.Plus(s.TurnTimes)
		sum.ToolTimes = sum.ToolTimes.Plus(s.ToolTimes)
	}
	return sum
}

func addAll(to, from map[string]uint64) {
	for k, n := range from {
		to[k] += n
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range families {
		to <- f.desc
	}
	to <- turnTimes
	to <- toolTimes
	to <- approvals
	to <- approvalsWaiting
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	s := sample{agents: m.Stats(), tasks: m.taskStats(), wires: m.Transport()}
	s.receipts, s.audited = m.auditStats()
	s.models, s.servers = m.modelStats(), m.serverStats()
	s.known, s.told = m.discoveryStats()
	for _, f := range families {
		f.read(s, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
		})
	}
	to <- prometheus.MustNewConstHistogram(turnTimes, s.agents.TurnTimes.Count, s.agents.TurnTimes.Sum, s.agents.TurnTimes.Buckets)
	to <- prometheus.MustNewConstHistogram(toolTimes, s.agents.ToolTimes.Count, s.agents.ToolTimes.Sum, s.agents.ToolTimes.Buckets)
	m.collectApprovals(to)
}
