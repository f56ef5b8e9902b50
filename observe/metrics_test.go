package observe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/observe"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
)

// atTheStart has every series that exists before the first event. Operators' rules rest on these names.
const atTheStart = `
converge_decisions_total{kind="cancel_task",outcome="done"}
converge_decisions_total{kind="cancel_task",outcome="failed"}
converge_decisions_total{kind="claim_task",outcome="done"}
converge_decisions_total{kind="claim_task",outcome="failed"}
converge_decisions_total{kind="fail_task",outcome="done"}
converge_decisions_total{kind="fail_task",outcome="failed"}
converge_decisions_total{kind="invoke_tool",outcome="done"}
converge_decisions_total{kind="invoke_tool",outcome="failed"}
converge_decisions_total{kind="report_task",outcome="done"}
converge_decisions_total{kind="report_task",outcome="failed"}
converge_decisions_total{kind="send_message",outcome="done"}
converge_decisions_total{kind="send_message",outcome="failed"}
converge_decisions_total{kind="submit_task",outcome="done"}
converge_decisions_total{kind="submit_task",outcome="failed"}
converge_decisions_total{kind="wake",outcome="done"}
converge_decisions_total{kind="wake",outcome="failed"}
converge_hook_dropped_total{stage="post_receive"}
converge_hook_dropped_total{stage="pre_send"}
converge_hook_failed_total{stage="post_receive"}
converge_hook_failed_total{stage="pre_send"}
converge_inbox_dropped_total
converge_inbox_messages
converge_inbox_withdrawn_total{reason="quarantined"}
converge_inbox_withdrawn_total{reason="revoked"}
converge_inbox_withdrawn_total{reason="unknown_epoch"}
converge_messages_opened_total
converge_messages_refused_total{reason="bad_signature"}
converge_messages_refused_total{reason="expired"}
converge_messages_refused_total{reason="key_not_in_force"}
converge_messages_refused_total{reason="malformed"}
converge_messages_refused_total{reason="marks_unavailable"}
converge_messages_refused_total{reason="misaddressed"}
converge_messages_refused_total{reason="not_yet_valid"}
converge_messages_refused_total{reason="quarantined"}
converge_messages_refused_total{reason="replayed"}
converge_messages_refused_total{reason="revoked"}
converge_messages_refused_total{reason="stale_session"}
converge_messages_refused_total{reason="too_large"}
converge_messages_refused_total{reason="too_many_sessions"}
converge_messages_refused_total{reason="unknown_epoch"}
converge_messages_refused_total{reason="unknown_sender"}
converge_messages_refused_total{reason="unopenable"}
converge_messages_refused_total{reason="unsealed"}
converge_messages_refused_total{reason="unsupported"}
converge_messages_sealed_total
converge_messages_signed_total
converge_messages_verified_total
converge_signature_batches_total
converge_tasks_corrupt_total
converge_tasks_total{event="cancelled"}
converge_tasks_total{event="claimed"}
converge_tasks_total{event="completed"}
converge_tasks_total{event="conflict"}
converge_tasks_total{event="dead_lettered"}
converge_tasks_total{event="expired"}
converge_tasks_total{event="failed"}
converge_tasks_total{event="pruned"}
converge_tasks_total{event="requeued"}
converge_tasks_total{event="retried"}
converge_tasks_total{event="submitted"}
converge_tool_calls_total{outcome="busy"}
converge_tool_calls_total{outcome="cancelled"}
converge_tool_calls_total{outcome="denied"}
converge_tool_calls_total{outcome="failed"}
converge_tool_calls_total{outcome="invalid"}
converge_tool_calls_total{outcome="not_approved"}
converge_tool_calls_total{outcome="panicked"}
converge_tool_calls_total{outcome="succeeded"}
converge_tool_calls_total{outcome="timed_out"}
converge_tool_calls_total{outcome="too_large"}
converge_tool_seconds
converge_tools_running
converge_transport_dropped_total
converge_turn_seconds
converge_turns_failed_total
rate_limit_egress_dropped_total{scope="global"}
rate_limit_egress_dropped_total{scope="sender"}
rate_limit_egress_dropped_total{scope="topic"}
rate_limit_ingress_dropped_total{scope="global"}
rate_limit_ingress_dropped_total{scope="sender"}
rate_limit_ingress_dropped_total{scope="topic"}
`

// series returns the values of Converge's own metrics by name and labels; of a histogram, the count.
func series(families map[string]*dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for name, family := range families {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			text := name
			if len(labels) > 0 {
				text += "{" + strings.Join(labels, ",") + "}"
			}
			all[text] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := observe.NewMetrics()
		want := strings.Fields(atTheStart)
		for _, when := range []string{"without agents", "with an agent"} {
			values := series(scrape(t, m))
			if got := slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
				t.Errorf("%s: the series are\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for name, value := range values {
				if value != 0 {
					t.Errorf("%s: %s is %v", when, name, value)
				}
			}
			m.Add(newWorld(t).runtime(agent(1), converge.Config{}))
		}
	})
}

func TestTypesOfMetrics(t *testing.T) {
	for name, family := range scrape(t, observe.NewMetrics()) {
		want := dto.MetricType_COUNTER
		switch name {
		case "converge_inbox_messages", "converge_tools_running":
			want = dto.MetricType_GAUGE
		case "converge_turn_seconds", "converge_tool_seconds":
			want = dto.MetricType_HISTOGRAM
		}
		if ours := strings.HasPrefix(name, "converge_") || strings.HasPrefix(name, "rate_limit_"); ours && family.GetType() != want {
			t.Errorf("%s is a %v", name, family.GetType())
		}
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
}

func TestGoAndProcessMetricsAreServed(t *testing.T) {
	families := scrape(t, observe.NewMetrics())
	for _, name := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_open_fds", "process_resident_memory_bytes"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}

// TestMetricsKeepTheRulesOfACollector is for those who register them in a registry of their own.
func TestMetricsKeepTheRulesOfACollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := traffic(t)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(m)
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
		}
	})
}

// custom is a decision of a kind that an agent makes up.
type custom string

func (c custom) Kind() string { return string(c) }

// names has what must not become a label, since whoever chooses it could make series without end: IDs
// and names of agents, tasks, tools, topics, networks and kinds.
func (s *scene) names() []string {
	return []string{
		"Alice-Agent", "bob-the-agent", "mallory", network, s.taskID, "c0ffee", "echo", "broken", "forbidden", "proofread",
		"orders", "text/", agent(1).ID().Short(), agent(2).ID().Short(), agent(66).ID().Short(),
	}
}

// scene is what has happened in traffic.
type scene struct {
	*world
	alice, bob *converge.Runtime
	stop       []func()
	taskID     string
}

// traffic has Alice and Bob work together, with things going wrong of every sort, and Mallory disturb
// them. When it returns, everything has come to rest.
func traffic(t *testing.T) (*observe.Metrics, *scene) {
	s := &scene{world: newWorld(t), taskID: strings.Repeat("c0ffee00", 8)}
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	tasks := must(task.New(task.Config{Store: entries, UnsignedUnsafe: true, Logger: slog.New(slog.DiscardHandler)}))
	found := must(discovery.New(discovery.Config{Store: entries, Network: network}))

	limiter := func(burst int) *ratelimit.Limiter {
		return must(ratelimit.New(ratelimit.Config{
			Global: ratelimit.Unlimited, Topic: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 1, Burst: burst},
		}))
	}
	failOn := func(body []byte, text string) error {
		if string(body) == text {
			return errors.New("hook: I do not like " + text)
		}
		return nil
	}
	tools := tool.NewRegistry()
	for name, fn := range map[string]func() (tool.Output, error){
		"echo":   func() (tool.Output, error) { return tool.Output{Data: []byte("ok")}, nil },
		"broken": func() (tool.Output, error) { return tool.Output{}, errors.New("broken for " + s.taskID) },
		"panics": func() (tool.Output, error) { panic("for " + s.taskID) },
	} {
		f := tool.Func(name, func(context.Context, json.RawMessage) (tool.Output, error) { return fn() })
		if err := tools.Register(f, tool.Options{}); err != nil {
			t.Fatal(err)
		}
	}

	s.alice = s.runtime(agent(1), converge.Config{
		Name: "Alice-Agent",
		Agent: &alice{decisions: []converge.Decision{
			say("1"), say("2"), say("3"), say("drop"), say("oops"), say("beyond the limit"), say("beyond it too"),
			converge.InvokeTool{Tool: "echo"}, converge.InvokeTool{Tool: "broken"}, converge.InvokeTool{Tool: "panics"},
			converge.InvokeTool{Tool: "forbidden"},
			custom("proofread_" + s.taskID), custom("unheard_of_" + s.taskID), converge.JoinPool{Pool: s.taskID},
			converge.SubmitTask{Spec: task.Spec{ID: s.taskID, Kind: "proofread", Capabilities: []string{"text/proofread"}}},
			converge.Wake{After: time.Second},
		}},
		Hooks: []transport.Hook{transport.OnSend(func(_ context.Context, d message.Draft) (*message.Draft, error) {
			if string(d.Body) == "drop" {
				return nil, nil
			}
			return &d, failOn(d.Body, "oops")
		})},
		Executor: &converge.ExecutorConfig{
			Tools: tools, ToolAllowlist: []string{"echo", "broken", "panics"}, Limiter: limiter(5),
			Handlers: map[string]converge.Handler{
				"proofread_" + s.taskID: func(context.Context, converge.Decision) error { return nil },
			},
		},
		Tasks: tasks, Discovery: found,
	})
	s.bob = s.runtime(agent(2), converge.Config{
		Name:         "bob-the-agent",
		Agent:        &bob{},
		Capabilities: []discovery.Capability{{Name: "text/proofread"}},
		Topics:       []message.Pattern{message.MustPattern("orders.>")},
		Hooks: []transport.Hook{
			ratelimit.NewHook(limiter(2)),
			transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
				return m, failOn(m.Body(), "2")
			}),
		},
		Tasks: tasks, Discovery: found,
	})
	m := observe.NewMetrics()
	m.Add(s.alice)
	m.Add(s.bob)
	m.AddTasks(tasks)

	s.stop = append(s.stop, s.run(s.bob))
	synctest.Wait()
	s.stop = append(s.stop, s.run(s.alice))
	s.disturb()
	time.Sleep(2 * time.Second)
	synctest.Wait()
	return m, s
}

func say(body string) converge.SendMessage {
	return converge.SendMessage{Draft: message.Draft{To: agent(2).ID(), Body: []byte(body)}}
}

// alice does everything on her list in her first turn.
type alice struct{ decisions []converge.Decision }

func (a *alice) Decide(context.Context, converge.Turn) ([]converge.Decision, error) {
	all := a.decisions
	a.decisions = nil
	return all, nil
}

// bob fails at the first message. After that he does the tasks that he sees.
type bob struct{ heard bool }

func (b *bob) Decide(_ context.Context, t converge.Turn) (all []converge.Decision, err error) {
	if !b.heard {
		b.heard = len(t.Messages) > 0
		if b.heard {
			err = fmt.Errorf("cannot bear %v", t.Messages)
		}
		return nil, err
	}
	for _, pending := range t.Tasks {
		all = append(all, converge.ClaimTask{TaskID: pending.ID})
	}
	for _, claimed := range t.Claimed {
		all = append(all, converge.ReportTask{TaskID: claimed.ID, Result: []byte("{}")})
	}
	return all, nil
}

// disturb sends Bob what he must not accept.
func (s *scene) disturb() {
	s.t.Helper()
	mallory := s.wires.Endpoint(agent(66).ID())
	if err := mallory.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	defer mallory.Close()
	send := func(frame []byte) {
		if err := mallory.Send(s.t.Context(), transport.Route{To: agent(2).ID()}, frame); err != nil {
			s.t.Fatal(err)
		}
	}
	signed := func(seed byte, d message.Draft) []byte {
		signer := must(message.NewSigner(message.SignerConfig{Identity: agent(seed), Network: network}))
		return must(signer.Sign(s.t.Context(), d)).Raw()
	}
	send([]byte("rubbish"))
	send(nil)
	for range 3 {
		send(signed(66, message.Draft{To: agent(2).ID()}))
	}
	send(signed(1, message.Draft{To: agent(66).ID()}))
	time.Sleep(time.Millisecond) // or it is older than what Alice has said
	forged := signed(1, message.Draft{To: agent(2).ID()})
	forged[len(forged)-1] ^= 1
	send(forged)
}

func TestTrafficIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := traffic(t)
		got := series(scrape(t, m))
		turns := got["converge_turn_seconds"]
		maps.DeleteFunc(got, func(name string, value float64) bool { return value == 0 || name == "converge_turn_seconds" })
		want := map[string]float64{
			"converge_messages_signed_total":   3,
			"converge_signature_batches_total": 1, // what Alice says in one turn
			"converge_messages_verified_total": 3,

			`converge_messages_refused_total{reason="malformed"}`:      2,
			`converge_messages_refused_total{reason="unknown_sender"}`: 3,
			`converge_messages_refused_total{reason="misaddressed"}`:   1,
			`converge_messages_refused_total{reason="bad_signature"}`:  1,

			`converge_hook_dropped_total{stage="pre_send"}`:     1,
			`converge_hook_failed_total{stage="pre_send"}`:      1,
			`converge_hook_dropped_total{stage="post_receive"}`: 1,
			`converge_hook_failed_total{stage="post_receive"}`:  1,

			`rate_limit_egress_dropped_total{scope="sender"}`:  2,
			`rate_limit_ingress_dropped_total{scope="sender"}`: 1,

			"converge_turns_failed_total": 1,

			`converge_decisions_total{kind="send_message",outcome="done"}`:   3,
			`converge_decisions_total{kind="send_message",outcome="failed"}`: 4,
			`converge_decisions_total{kind="invoke_tool",outcome="done"}`:    4,
			`converge_decisions_total{kind="custom",outcome="done"}`:         1,
			`converge_decisions_total{kind="custom",outcome="failed"}`:       1,
			`converge_decisions_total{kind="join_pool",outcome="failed"}`:    1,
			`converge_decisions_total{kind="submit_task",outcome="done"}`:    1,
			`converge_decisions_total{kind="claim_task",outcome="done"}`:     1,
			`converge_decisions_total{kind="report_task",outcome="done"}`:    1,
			`converge_decisions_total{kind="wake",outcome="done"}`:           1,

			`converge_tool_calls_total{outcome="succeeded"}`: 1,
			`converge_tool_calls_total{outcome="failed"}`:    1,
			`converge_tool_calls_total{outcome="panicked"}`:  1,
			`converge_tool_calls_total{outcome="denied"}`:    1,
			"converge_tool_seconds":                          4,

			`converge_tasks_total{event="submitted"}`: 1,
			`converge_tasks_total{event="claimed"}`:   1,
			`converge_tasks_total{event="completed"}`: 1,
		}
		for name := range maps.Keys(merge(got, want)) {
			if got[name] != want[name] {
				t.Errorf("%s is %v, want %v", name, got[name], want[name])
			}
		}
		if stats := m.Stats(); turns == 0 || turns != float64(stats.Turns) {
			t.Errorf("converge_turn_seconds counts %v turns of %d", turns, stats.Turns)
		}
	})
}

func merge(a, b map[string]float64) map[string]float64 {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

var hexID = regexp.MustCompile(`[0-9a-fA-F]{32,}`)

// TestNoLabelHoldsWhatAPeerCanChoose looks at all that is served after traffic in which agents, tasks,
// kinds and tools had telling names.
func TestNoLabelHoldsWhatAPeerCanChoose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := traffic(t)
		text := get(m, "GET", "/metrics").Body.String()
		if id := hexID.FindString(text); id != "" {
			t.Errorf("the metrics hold the ID %s", id)
		}
		values := 0
		for name, family := range scrape(t, m) {
			for _, metric := range family.Metric {
				for _, label := range metric.Label {
					values++
					for _, private := range s.names() {
						if strings.Contains(label.GetValue(), private) {
							t.Errorf("%s{%s=%q} holds %q", name, label.GetName(), label.GetValue(), private)
						}
					}
				}
			}
		}
		if values < 50 {
			t.Errorf("only %d label values were looked at", values)
		}
	})
}

func TestRemoveKeepsTheSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := traffic(t)
		for _, stop := range s.stop {
			stop()
		}
		before, stats := series(scrape(t, m)), m.Stats()
		for _, r := range []*converge.Runtime{s.alice, s.alice, s.bob, newWorld(t).runtime(agent(3), converge.Config{})} {
			m.Remove(r)
			if after := series(scrape(t, m)); !maps.Equal(before, after) {
				t.Errorf("removed %v: the metrics went from %v to %v", r.ID().Short(), before, after)
			}
		}
		if after := m.Stats(); !reflect.DeepEqual(stats, after) {
			t.Errorf("the statistics went from\n%+v to\n%+v", stats, after)
		}
	})
}

// TestRemoveLetsGoOfGauges removes an agent one of whose tools hangs.
func TestRemoveLetsGoOfGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, release := newWorld(t), observe.NewMetrics(), make(chan struct{})
		tools := tool.NewRegistry()
		hangs := tool.Func("hangs", func(context.Context, json.RawMessage) (tool.Output, error) {
			<-release
			return tool.Output{}, nil
		})
		if err := tools.Register(hangs, tool.Options{}); err != nil {
			t.Fatal(err)
		}
		r := w.runtime(agent(1), converge.Config{
			Agent:    &alice{decisions: []converge.Decision{converge.InvokeTool{Tool: "hangs"}}},
			Executor: &converge.ExecutorConfig{Tools: tools, ToolAllowlist: []string{"hangs"}},
		})
		m.Add(r)
		stop := w.run(r)
		synctest.Wait()
		stop()
		if got := series(scrape(t, m))["converge_tools_running"]; got != 1 {
			t.Errorf("%v tools run, want 1", got)
		}
		m.Remove(r)
		after := series(scrape(t, m))
		if got := after["converge_tools_running"]; got != 0 {
			t.Errorf("%v tools run of an agent that was removed", got)
		}
		if got := after[`converge_tool_calls_total{outcome="cancelled"}`]; got != 1 {
			t.Errorf("%v calls were cancelled, want 1", got)
		}
		close(release)
	})
}

func TestTasksOfSeveralManagersAreAddedUp(t *testing.T) {
	m := observe.NewMetrics()
	for n := range 3 {
		entries := must(memory.New(memory.Config{}))
		defer entries.Close()
		tasks := must(task.New(task.Config{Store: entries, UnsignedUnsafe: true, Logger: slog.New(slog.DiscardHandler)}))
		m.AddTasks(tasks)
		for range n {
			if _, err := tasks.Submit(t.Context(), task.Spec{Kind: "k", Submitter: agent(1).ID()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := series(scrape(t, m))[`converge_tasks_total{event="submitted"}`]; got != 3 {
		t.Errorf("%v tasks were submitted, want 3", got)
	}
}

// wires is a network's statistics.
type wires transport.Stats

func (w wires) Stats() transport.Stats { return transport.Stats(w) }

func TestConnectionsAreCounted(t *testing.T) {
	m := observe.NewMetrics()
	without := series(scrape(t, m))
	m.AddTransport(wires{
		Connections: 1, Opened: 2, Closed: 3, FramesIn: 4, FramesOut: 5, BytesIn: 6, BytesOut: 7, Lost: 8,
		Refused: map[string]uint64{"not_tls": 9, "wrong_key": 0},
	})
	m.AddTransport(wires{Connections: 10, FramesIn: 20, Refused: map[string]uint64{"not_tls": 1}})
	got := series(scrape(t, m))
	maps.DeleteFunc(got, func(name string, _ float64) bool { _, was := without[name]; return was })
	want := map[string]float64{
		"converge_transport_connections":                       11,
		`converge_transport_connections_total{event="opened"}`: 2,
		`converge_transport_connections_total{event="closed"}`: 3,
		`converge_transport_frames_total{direction="in"}`:      24,
		`converge_transport_frames_total{direction="out"}`:     5,
		`converge_transport_bytes_total{direction="in"}`:       6,
		`converge_transport_bytes_total{direction="out"}`:      7,
		"converge_transport_lost_total":                        8,
		`converge_transport_refused_total{reason="not_tls"}`:   10,
		`converge_transport_refused_total{reason="wrong_key"}`: 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestTransportsAreAddedUpWhole fills every number in the statistics, and so notices a new one.
func TestTransportsAreAddedUpWhole(t *testing.T) {
	m := observe.NewMetrics()
	var want transport.Stats
	fill(t, reflect.ValueOf(&want).Elem(), 11)
	for _, n := range []uint64{1, 10} {
		var s transport.Stats
		fill(t, reflect.ValueOf(&s).Elem(), n)
		m.AddTransport(wires(s))
	}
	if got := m.Transport(); !reflect.DeepEqual(got, want) {
		t.Errorf("the sum is\n%+v, want\n%+v", got, want)
	}
}

// TestSumLeavesOutNothing fills every number in the statistics, and so notices a new one.
func TestSumLeavesOutNothing(t *testing.T) {
	filled := func(n uint64) converge.Stats {
		var s converge.Stats
		fill(t, reflect.ValueOf(&s).Elem(), n)
		return s
	}
	if got, want := observe.Sum(filled(1), filled(10), filled(100)), filled(111); !reflect.DeepEqual(got, want) {
		t.Errorf("the sum is\n%+v, want\n%+v", got, want)
	}
	if got := observe.Sum(); got.Turns != 0 || got.Refused == nil || got.Decisions == nil {
		t.Errorf("the sum of nothing is %+v", got)
	}
}

// fill sets every number in v to n, and gives every map the one key there is.
func fill(t *testing.T, v reflect.Value, n uint64) {
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field, n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Uint64:
		v.SetUint(n)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Float64:
		v.SetFloat(float64(n))
	default:
		t.Fatalf("there is a %v in the statistics", v.Type())
	}
}

// TestHistogramsAreCumulative wants what Prometheus expects of buckets.
func TestHistogramsAreCumulative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := traffic(t)
		for _, name := range []string{"converge_turn_seconds", "converge_tool_seconds"} {
			h := scrape(t, m)[name].Metric[0].GetHistogram()
			var last uint64
			for _, bucket := range h.Bucket {
				if bucket.GetCumulativeCount() < last {
					t.Errorf("%s: the bucket up to %v has %d, the one before %d", name, bucket.GetUpperBound(), bucket.GetCumulativeCount(), last)
				}
				last = bucket.GetCumulativeCount()
			}
			if last != h.GetSampleCount() || len(h.Bucket) < 10 {
				t.Errorf("%s: %d buckets end at %d of %d", name, len(h.Bucket), last, h.GetSampleCount())
			}
		}
	})
}
