package observe

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/converge-agents/converge"
)

// Handler serves what an operator's systems ask for:
//
//	/metrics  Prometheus metrics of the agents, the Go runtime and the process
//	/healthz  200 while no agent is stuck, else 503; the agents' states as JSON
//	/readyz   200 while every agent receives and takes turns, else 503; likewise
//
// It has no authentication of its own: bind it to loopback or a management network.
func (m *Metrics) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", m.serveHealth(func(h converge.Health) bool { return !h.Stuck() }))
	mux.HandleFunc("GET /readyz", m.serveHealth(func(h converge.Health) bool { return h.State == converge.StateRunning }))
	return mux
}

// agentHealth is the JSON form of a converge.Health.
type agentHealth struct {
	Name        string  `json:"name"`
	State       string  `json:"state"`
	BusySeconds float64 `json:"busy_seconds"`
	Inbox       int     `json:"inbox"`
}

func (m *Metrics) serveHealth(good func(converge.Health) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		status := http.StatusOK
		agents := make([]agentHealth, 0, len(m.runtimes))
		for _, r := range m.runtimes {
			h := r.Health()
			if !good(h) {
				status = http.StatusServiceUnavailable
			}
			agents = append(agents, agentHealth{h.Name, h.State.String(), h.Busy.Seconds(), h.Inbox})
		}
		m.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"agents": agents}) // the client has gone if this fails
	}
}
