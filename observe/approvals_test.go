package observe_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/observe"
)

type approvals approval.Stats

func (a approvals) Stats() approval.Stats { return approval.Stats(a) }

func TestApprovalsAreCounted(t *testing.T) {
	m := observe.NewMetrics()
	for range 2 {
		m.AddApprovals(approvals{Waiting: 2, Outcomes: map[approval.Outcome]uint64{approval.AllowedBy: 3, approval.NobodyDecided: 0}})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.Metric {
			if name := f.GetName(); strings.HasPrefix(name, "converge_approvals") {
				for _, label := range metric.Label {
					name += " " + label.GetValue()
				}
				got[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	for name, want := range map[string]float64{"converge_approvals_total allowed": 6, "converge_approvals_total timed_out": 0, "converge_approvals_waiting": 4} {
		if n, ok := got[name]; !ok || n != want {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}
}
