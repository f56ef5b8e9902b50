package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge/approval"
)

// Approvals is what [Metrics] asks about approvals; an [approval.Service] is one.
type Approvals interface{ Stats() approval.Stats }

// AddApprovals includes a service that approves tool calls.
func (m *Metrics) AddApprovals(a Approvals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.approvals = append(m.approvals, a)
}

var (
	approvals        = prometheus.NewDesc("converge_approvals_total", "Tool calls by what the policy, or who was asked, said.", []string{"outcome"}, nil)
	approvalsWaiting = prometheus.NewDesc("converge_approvals_waiting", "Tool calls of this process that wait for somebody to decide.", nil, nil)
)

// collectApprovals emits nothing where nobody approves.
func (m *Metrics) collectApprovals(to chan<- prometheus.Metric) {
	m.mu.Lock()
	all := m.approvals
	m.mu.Unlock()
	if len(all) == 0 {
		return
	}
	counts, waiting := map[approval.Outcome]uint64{}, int64(0)
	for _, a := range all {
		s := a.Stats()
		waiting += s.Waiting
		for outcome, n := range s.Outcomes {
			counts[outcome] += n
		}
	}
	for outcome, n := range counts {
		to <- prometheus.MustNewConstMetric(approvals, prometheus.CounterValue, float64(n), string(outcome))
	}
	to <- prometheus.MustNewConstMetric(approvalsWaiting, prometheus.GaugeValue, float64(waiting))
}
