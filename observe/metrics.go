package observe

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// Metrics is a [prometheus.Collector] over the agents of a process. It sums over them: no label ever
// holds an ID or a name that a peer can choose. Nothing is counted here: a scrape reads the counters
// that the runtimes keep anyway. It is safe for concurrent use.
//
//	reg.MustRegister(metrics)
type Metrics struct {
	mu       sync.Mutex
	runtimes []*converge.Runtime
	gone     []converge.Stats // at most one: the sum of those that were removed
	tasks    []*task.Manager
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
	}
	return sum
}

// Sum adds up statistics.
func Sum(all ...converge.Stats) converge.Stats {
	sum := converge.Stats{
		Refused: map[string]uint64{}, Ingress: map[string]uint64{}, Egress: map[string]uint64{},
		Hooks:     transport.HookStats{Dropped: map[string]uint64{}, Failed: map[string]uint64{}},
		Decisions: map[string]converge.DecisionStats{},
	}
	for _, s := range all {
		sum.Signed += s.Signed
		sum.Verified += s.Verified
		sum.Lost += s.Lost
		sum.Inbox += s.Inbox
		sum.Overflow += s.Overflow
		sum.Turns += s.Turns
		sum.Failed += s.Failed
		addAll(sum.Refused, s.Refused)
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

// metric describes one family and how it is read.
type metric struct {
	desc *prometheus.Desc
	read func(s converge.Stats, t task.Stats, emit func(value float64, labels ...string))
	kind prometheus.ValueType
}

func counter(name, help string, label string, read func(converge.Stats, task.Stats, func(float64, ...string))) metric {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	return metric{prometheus.NewDesc(name, help, labels, nil), read, prometheus.CounterValue}
}

func single(get func(converge.Stats, task.Stats) float64) func(converge.Stats, task.Stats, func(float64, ...string)) {
	return func(s converge.Stats, t task.Stats, emit func(float64, ...string)) { emit(get(s, t)) }
}

// each emits a value for every name, so that a series exists before its first event.
func each(names []string, get func(converge.Stats) map[string]uint64) func(converge.Stats, task.Stats, func(float64, ...string)) {
	return func(s converge.Stats, _ task.Stats, emit func(float64, ...string)) {
		values := get(s)
		for _, name := range names {
			emit(float64(values[name]), name)
		}
	}
}

func names[T interface{ String() string }](values ...T) []string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}

var (
	scopes = names(ratelimit.ScopeGlobal, ratelimit.ScopeSender, ratelimit.ScopeTopic)
	stages = names(transport.StagePreSend, transport.StagePostReceive)
)

// metrics lists every family but the histograms, in the order of the pipeline.
var metrics = []metric{
	counter("converge_messages_signed_total", "Messages signed.", "",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Signed) })),
	counter("converge_transport_dropped_total", "Frames that a transport's full queue dropped.", "",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Lost) })),
	counter("converge_messages_verified_total", "Received frames that passed verification.", "",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Verified) })),
	counter("converge_messages_refused_total", "Received frames that verification refused.", "reason",
		each(names(message.Reasons()...), func(s converge.Stats) map[string]uint64 { return s.Refused })),
	counter("converge_hook_dropped_total", "Messages that hooks dropped, rate limits included.", "stage",
		each(stages, func(s converge.Stats) map[string]uint64 { return s.Hooks.Dropped })),
	counter("converge_hook_failed_total", "Messages dropped because a hook failed.", "stage",
		each(stages, func(s converge.Stats) map[string]uint64 { return s.Hooks.Failed })),
	counter("rate_limit_ingress_dropped_total", "Received messages that a rate limit dropped.", "scope",
		each(scopes, func(s converge.Stats) map[string]uint64 { return s.Ingress })),
	counter("rate_limit_egress_dropped_total", "Messages that a rate limit kept from being sent.", "scope",
		each(scopes, func(s converge.Stats) map[string]uint64 { return s.Egress })),
	counter("converge_inbox_dropped_total", "Messages that a full inbox dropped.", "",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Overflow) })),
	gauge("converge_inbox_messages", "Messages that wait in inboxes.",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Inbox) })),
	counter("converge_turns_failed_total", "Turns that ended in an error or a panic.", "",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Failed) })),
	{prometheus.NewDesc("converge_decisions_total", "Decisions by kind and outcome.", []string{"kind", "outcome"}, nil), decisions, prometheus.CounterValue},
	counter("converge_tool_calls_total", "Tool calls by outcome.", "outcome", toolCalls),
	gauge("converge_tools_running", "Tool calls that run.",
		single(func(s converge.Stats, _ task.Stats) float64 { return float64(s.Tools.Running) })),
	counter("converge_tasks_total", "Events in the lives of tasks.", "event", taskEvents),
}

func gauge(name, help string, read func(converge.Stats, task.Stats, func(float64, ...string))) metric {
	m := counter(name, help, "", read)
	m.kind = prometheus.GaugeValue
	return m
}

// kinds are those of the decisions that this version carries out; others appear as they occur.
var kinds = []converge.Decision{
	converge.SendMessage{}, converge.SubmitTask{}, converge.ClaimTask{}, converge.ReportTask{}, converge.FailTask{},
	converge.CancelTask{}, converge.InvokeTool{}, converge.Wake{},
}

func decisions(s converge.Stats, _ task.Stats, emit func(float64, ...string)) {
	counts := map[string]converge.DecisionStats{}
	for _, k := range kinds {
		counts[k.Kind()] = converge.DecisionStats{}
	}
	maps.Copy(counts, s.Decisions)
	for kind, d := range counts {
		emit(float64(d.Done), kind, "done")
		emit(float64(d.Failed), kind, "failed")
	}
}

func toolCalls(s converge.Stats, _ task.Stats, emit func(float64, ...string)) {
	t := s.Tools
	for outcome, n := range map[string]uint64{
		"succeeded": t.Succeeded, "denied": t.Denied, "invalid": t.Invalid, "busy": t.Busy, "timed_out": t.TimedOut,
		"cancelled": t.Cancelled, "too_large": t.TooLarge, "panicked": t.Panicked, "failed": t.Failed,
	} {
		emit(float64(n), outcome)
	}
}

func taskEvents(_ converge.Stats, t task.Stats, emit func(float64, ...string)) {
	for event, n := range map[string]uint64{
		"submitted": t.Submitted, "claimed": t.Claimed, "completed": t.Completed, "failed": t.Failed,
		"cancelled": t.Cancelled, "expired": t.Expired, "conflict": t.Conflicts,
	} {
		emit(float64(n), event)
	}
}

var (
	turnTimes = prometheus.NewDesc("converge_turn_seconds", "How long agents took to decide.", nil, nil)
	toolTimes = prometheus.NewDesc("converge_tool_seconds", "How long tool calls took, waiting included.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range metrics {
		to <- f.desc
	}
	to <- turnTimes
	to <- toolTimes
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	s, t := m.Stats(), m.taskStats()
	for _, f := range metrics {
		f.read(s, t, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
		})
	}
	to <- prometheus.MustNewConstHistogram(turnTimes, s.TurnTimes.Count, s.TurnTimes.Sum, s.TurnTimes.Buckets)
	to <- prometheus.MustNewConstHistogram(toolTimes, s.ToolTimes.Count, s.ToolTimes.Sum, s.ToolTimes.Buckets)
}
