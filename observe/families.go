package observe

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// sample is what one scrape reads.
type sample struct {
	agents converge.Stats
	tasks  task.Stats
	wires  transport.Stats

	receipts audit.Stats
	audited  bool // whether there are receipts

	models  []modelStats
	servers map[string]Server
	known   *discovery.Stats // nil without discovery
	told    *gossip.Stats    // nil without gossip
}

// reader emits the values of one family.
type reader func(s sample, emit func(value float64, labels ...string))

// metric describes one family and how it is read.
type metric struct {
	desc *prometheus.Desc
	read reader
	kind prometheus.ValueType
}

func counter(name, help string, label string, read reader) metric {
	if label == "" {
		return counterBy(name, help, nil, read)
	}
	return counterBy(name, help, []string{label}, read)
}

func counterBy(name, help string, labels []string, read reader) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), read, prometheus.CounterValue}
}

func single[N int | int64 | uint64](get func(sample) N) reader {
	return func(s sample, emit func(float64, ...string)) { emit(float64(get(s))) }
}

// each emits a value for every name, so that a series exists before its first event.
func each(names []string, get func(converge.Stats) map[string]uint64) reader {
	return func(s sample, emit func(float64, ...string)) {
		values := get(s.agents)
		for _, name := range names {
			emit(float64(values[name]), name)
		}
	}
}

// onWires is for what only networks with connections have.
func onWires(read reader) reader {
	return func(s sample, emit func(float64, ...string)) {
		if s.wires.Refused != nil {
			read(s, emit)
		}
	}
}

// directions emits what came in and what went out.
func directions(get func(transport.Stats) (in, out uint64)) reader {
	return onWires(func(s sample, emit func(float64, ...string)) {
		in, out := get(s.wires)
		emit(float64(in), "in")
		emit(float64(out), "out")
	})
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

// families are all but the histograms and the approvals.
var families = slices.Concat(metrics, modelMetrics, serverMetrics, discoveryMetrics)

// metrics lists those of every process, in the order of the pipeline.
var metrics = []metric{
	counter("converge_messages_signed_total", "Messages signed.", "",
		single(func(s sample) uint64 { return s.agents.Signed })),
	counter("converge_signature_batches_total", "Signatures that several messages share.", "",
		single(func(s sample) uint64 { return s.agents.Batches })),
	counter("converge_messages_sealed_total", "Signed messages whose bodies are sealed.", "",
		single(func(s sample) uint64 { return s.agents.Sealed })),
	gauge("converge_transport_connections", "Connections to peers that are open.",
		onWires(single(func(s sample) int { return s.wires.Connections }))),
	counter("converge_transport_connections_total", "Connections to peers by event.", "event", connections),
	counter("converge_transport_frames_total", "Frames on connections by direction.", "direction",
		directions(func(s transport.Stats) (in, out uint64) { return s.FramesIn, s.FramesOut })),
	counter("converge_transport_bytes_total", "Bytes on connections by direction.", "direction",
		directions(func(s transport.Stats) (in, out uint64) { return s.BytesIn, s.BytesOut })),
	counter("converge_transport_lost_total", "Frames that were to be sent to a peer that stayed away.", "",
		onWires(single(func(s sample) uint64 { return s.wires.Lost }))),
	counter("converge_transport_refused_total", "Connections and frames that a transport turned away.", "reason", refusals),
	counter("converge_transport_dropped_total", "Frames that a transport's full queue dropped.", "",
		single(func(s sample) uint64 { return s.agents.Lost })),
	counter("converge_messages_verified_total", "Received frames that passed verification.", "",
		single(func(s sample) uint64 { return s.agents.Verified })),
	counter("converge_messages_opened_total", "Verified messages whose bodies were sealed.", "",
		single(func(s sample) uint64 { return s.agents.Opened })),
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
		single(func(s sample) uint64 { return s.agents.Overflow })),
	counter("converge_inbox_withdrawn_total", "Verified messages that were dropped because their sender's key was taken back.", "reason",
		each(names(converge.WithdrawnReasons...), func(s converge.Stats) map[string]uint64 { return s.Withdrawn })),
	gauge("converge_inbox_messages", "Messages that wait in inboxes.",
		single(func(s sample) int { return s.agents.Inbox })),
	counter("converge_turns_failed_total", "Turns that ended in an error or a panic.", "",
		single(func(s sample) uint64 { return s.agents.Failed })),
	counterBy("converge_decisions_total", "Decisions by kind and outcome.", []string{"kind", "outcome"}, decisions),
	counter("converge_tool_calls_total", "Tool calls by outcome.", "outcome", toolCalls),
	gauge("converge_tools_running", "Tool calls that run.",
		single(func(s sample) int64 { return s.agents.Tools.Running })),
	counter("converge_audit_receipts_total", "Receipts that were appended.", "", audited(func(s audit.Stats) uint64 { return s.Receipts })),
	counter("converge_audit_synced_total", "Receipts that are on the disk, under a signed checkpoint.", "", audited(func(s audit.Stats) uint64 { return s.Synced })),
	counter("converge_audit_checkpoints_total", "Signed checkpoints.", "", audited(func(s audit.Stats) uint64 { return s.Syncs })),
	counter("converge_audit_bytes_total", "Bytes of receipts that were written.", "", audited(func(s audit.Stats) uint64 { return s.Bytes })),
	counter("converge_audit_files_removed_total", "Old files of receipts that were removed to keep the bound.", "", audited(func(s audit.Stats) uint64 { return s.Removed })),
	gauge("converge_audit_last_sync_timestamp_seconds", "When receipts were last made durable, in Unix time. Without new receipts there is no sync.", lastSync),
	gauge("converge_audit_broken", "1 once receipts could not be written, so that agents do nothing.", audited(broken)),
	counter("converge_tasks_total", "Events in the lives of tasks.", "event", taskEvents),
	counter("converge_tasks_corrupt_total", "Unreadable task records that were met and skipped.", "",
		single(func(s sample) uint64 { return s.tasks.Corrupt })),
}

// audited is for what only processes with a log of receipts have.
func audited(get func(audit.Stats) uint64) reader {
	return func(s sample, emit func(float64, ...string)) {
		if s.audited {
			emit(float64(get(s.receipts)))
		}
	}
}

func lastSync(s sample, emit func(float64, ...string)) {
	if s.audited {
		emit(float64(s.receipts.LastSync.UnixMilli()) / 1e3)
	}
}

func broken(s audit.Stats) uint64 {
	if s.Broken {
		return 1
	}
	return 0
}

func gauge(name, help string, read reader) metric {
	m := counter(name, help, "", read)
	m.kind = prometheus.GaugeValue
	return m
}

func connections(s sample, emit func(float64, ...string)) {
	if s.wires.Refused != nil {
		emit(float64(s.wires.Opened), "opened")
		emit(float64(s.wires.Closed), "closed")
	}
}

// refusals are by the words that the networks know.
func refusals(s sample, emit func(float64, ...string)) {
	for reason, n := range s.wires.Refused {
		emit(float64(n), reason)
	}
}

// kinds are those of the decisions that this version carries out; others appear as they occur.
var kinds = []converge.Decision{
	converge.SendMessage{}, converge.SubmitTask{}, converge.ClaimTask{}, converge.ReportTask{}, converge.FailTask{},
	converge.CancelTask{}, converge.InvokeTool{}, converge.Wake{},
}

func decisions(s sample, emit func(float64, ...string)) {
	counts := map[string]converge.DecisionStats{}
	for _, k := range kinds {
		counts[k.Kind()] = converge.DecisionStats{}
	}
	maps.Copy(counts, s.agents.Decisions)
	for kind, d := range counts {
		emit(float64(d.Done), kind, "done")
		emit(float64(d.Failed), kind, "failed")
	}
}

func toolCalls(s sample, emit func(float64, ...string)) {
	t := s.agents.Tools
	for outcome, n := range map[string]uint64{
		"succeeded": t.Succeeded, "denied": t.Denied, "invalid": t.Invalid, "not_approved": t.Refused, "busy": t.Busy, "timed_out": t.TimedOut,
		"cancelled": t.Cancelled, "too_large": t.TooLarge, "panicked": t.Panicked, "failed": t.Failed,
	} {
		emit(float64(n), outcome)
	}
}

func taskEvents(s sample, emit func(float64, ...string)) {
	t := s.tasks
	for event, n := range map[string]uint64{
		"submitted": t.Submitted, "claimed": t.Claimed, "completed": t.Completed, "failed": t.Failed,
		"cancelled": t.Cancelled, "expired": t.Expired, "conflict": t.Conflicts, "retried": t.Retried,
		"dead_lettered": t.DeadLettered, "requeued": t.Requeued, "pruned": t.Pruned,
	} {
		emit(float64(n), event)
	}
}

var (
	turnTimes = prometheus.NewDesc("converge_turn_seconds", "How long agents took to decide.", nil, nil)
	toolTimes = prometheus.NewDesc("converge_tool_seconds", "How long tool calls took, waiting included.", nil, nil)
)
