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
//	/readyz   200 while every agent receives and takes turns and all that is required ([Metrics.Require])
//	          is met, else 503; likewise
//
// It has no authentication of its own: bind it to loopback or a management network.
func (m *Metrics) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", m.serveHealth(func(h converge.Health) bool { return !h.Stuck() }, false))
	mux.HandleFunc("GET /readyz", m.serveHealth(func(h converge.Health) bool { return h.State == converge.StateRunning }, true))
	return mux
}

// condition is something that has to hold before the process is of use.
type condition struct {
	name string
	met  func() bool
}

// Require makes /readyz depend on met, such as that another process can be reached. met is called for each
// request and must return at once; the name is shown.
func (m *Metrics) Require(name string, met func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.required = append(m.required, condition{name, met})
}

// requiredHealth is the JSON form of a condition.
type requiredHealth struct {
	Name string `json:"name"`
	Met  bool   `json:"met"`
}

func (m *Metrics) conditions() (all []requiredHealth, met bool) {
	m.mu.Lock()
	required := m.required
	m.mu.Unlock()
	met = true
	for _, c := range required {
		ok := c.met()
		met = met && ok
		all = append(all, requiredHealth{c.name, ok})
	}
	return all, met
}

// agentHealth is the JSON form of a converge.Health.
type agentHealth struct {
	Name        string  `json:"name"`
	State       string  `json:"state"`
	BusySeconds float64 `json:"busy_seconds"`
	Inbox       int     `json:"inbox"`
}

// health is what is served.
type health struct {
	Agents   []agentHealth    `json:"agents"`
	Required []requiredHealth `json:"required,omitempty"`
}

func (m *Metrics) agents(good func(converge.Health) bool) (all []agentHealth, allGood bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all, allGood = make([]agentHealth, 0, len(m.runtimes)), true
	for _, r := range m.runtimes {
		h := r.Health()
		allGood = allGood && good(h)
		all = append(all, agentHealth{h.Name, h.State.String(), h.Busy.Seconds(), h.Inbox})
	}
	return all, allGood
}

func (m *Metrics) serveHealth(good func(converge.Health) bool, needsAll bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var h health
		status := http.StatusOK
		agents, allGood := m.agents(good)
		required, met := m.conditions()
		h.Agents, h.Required = agents, required
		if !allGood || needsAll && !met {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(h) // the client has gone if this fails
	}
}
