package observe

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Server is how an MCP server is at one moment. It is the numbers of an mcp.Status, so that whoever imports this
// package does not get that protocol too.
type Server struct {
	Up       bool   // whether it can be called
	Restarts uint64 // how often it was started again
	Blocked  int    // tools that are blocked
}

// AddServer includes an MCP server. The name becomes a label: take that of the configuration. Another server of that
// name takes its place. status is called for each scrape and must return at once.
func (m *Metrics) AddServer(name string, status func() Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.servers == nil {
		m.servers = map[string]func() Server{}
	}
	m.servers[name] = status
}

func (m *Metrics) serverStats() map[string]Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]Server{}
	for name, status := range m.servers {
		all[name] = status()
	}
	return all
}

// serverMetrics are of MCP servers.
var serverMetrics = []metric{
	byServer("converge_mcp_up", "1 while the MCP server can be called.", prometheus.GaugeValue, up),
	byServer("converge_mcp_restarts_total", "How often the MCP server was started again.", prometheus.CounterValue,
		func(s Server) float64 { return float64(s.Restarts) }),
	byServer("converge_mcp_blocked_tools", "Tools of the MCP server whose definitions are not the approved ones.", prometheus.GaugeValue,
		func(s Server) float64 { return float64(s.Blocked) }),
}

func byServer(name, help string, kind prometheus.ValueType, get func(Server) float64) metric {
	m := counter(name, help, "server", func(s sample, emit func(float64, ...string)) {
		for name, server := range s.servers {
			emit(get(server), name)
		}
	})
	m.kind = kind
	return m
}

func up(s Server) float64 {
	if s.Up {
		return 1
	}
	return 0
}
