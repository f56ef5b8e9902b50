package observe_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/observe"
)

type clerk llm.Stats

func (c clerk) Stats() llm.Stats { return llm.Stats(c) }

type known discovery.Stats

func (k known) Stats() discovery.Stats { return discovery.Stats(k) }

type told gossip.Stats

func (g told) Stats() gossip.Stats { return gossip.Stats(g) }

// wantSeries compares the families of a prefix.
func wantSeries(t *testing.T, m *observe.Metrics, prefix string, want map[string]float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
	got := series(scrape(t, m))
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.HasPrefix(name, prefix) })
	for name := range maps.Keys(merge(got, want)) {
		if value, is := got[name]; !is || value != want[name] {
			t.Errorf("%s is %v (there: %v), want %v", name, value, is, want[name])
		}
	}
}

// TestModelsOfTheSameNamesAreAddedUp, since an entry of the configuration may stand for many agents.
func TestModelsOfTheSameNamesAreAddedUp(t *testing.T) {
	m := observe.NewMetrics()
	wantSeries(t, m, "converge_llm_", nil)
	for range 2 {
		m.AddModel("clerk", "main", clerk{
			Calls: 10, Failures: 3, Retries: 2, Answers: 7, InputTokens: 100, OutputTokens: 50, Cost: 1_250_000,
			Conversations: 5, FailedConversations: 1, Unheard: 4,
			Refused: map[llm.Reason]uint64{llm.TooDeep: 6},
		})
	}
	m.AddModel("clerk", "spare", clerk{Calls: 1})
	want := map[string]float64{
		`converge_llm_calls_total{agent="clerk",model="main",outcome="answered"}`:      14,
		`converge_llm_calls_total{agent="clerk",model="main",outcome="failed"}`:        6,
		`converge_llm_retries_total{agent="clerk",model="main"}`:                       4,
		`converge_llm_tokens_total{agent="clerk",direction="in",model="main"}`:         200,
		`converge_llm_tokens_total{agent="clerk",direction="out",model="main"}`:        100,
		`converge_llm_cost_total{agent="clerk",model="main"}`:                          2.5,
		`converge_llm_conversations_total{agent="clerk",event="begun",model="main"}`:   10,
		`converge_llm_conversations_total{agent="clerk",event="failed",model="main"}`:  2,
		`converge_llm_unheard_total{agent="clerk",model="main"}`:                       8,
		`converge_llm_calls_total{agent="clerk",model="spare",outcome="answered"}`:     1,
		`converge_llm_calls_total{agent="clerk",model="spare",outcome="failed"}`:       0,
		`converge_llm_retries_total{agent="clerk",model="spare"}`:                      0,
		`converge_llm_tokens_total{agent="clerk",direction="in",model="spare"}`:        0,
		`converge_llm_tokens_total{agent="clerk",direction="out",model="spare"}`:       0,
		`converge_llm_cost_total{agent="clerk",model="spare"}`:                         0,
		`converge_llm_conversations_total{agent="clerk",event="begun",model="spare"}`:  0,
		`converge_llm_conversations_total{agent="clerk",event="failed",model="spare"}`: 0,
		`converge_llm_unheard_total{agent="clerk",model="spare"}`:                      0,
	}
	for _, reason := range llm.Reasons() {
		want[`converge_llm_refused_total{agent="clerk",model="main",reason="`+string(reason)+`"}`] = 0
		want[`converge_llm_refused_total{agent="clerk",model="spare",reason="`+string(reason)+`"}`] = 0
	}
	want[`converge_llm_refused_total{agent="clerk",model="main",reason="too_deep"}`] = 12
	wantSeries(t, m, "converge_llm_", want)
}

// TestModelsAreAddedUpWhole fills every number that is served, and so notices a new one. Answers are what is left of calls,
// and Today is for budgets.
func TestModelsAreAddedUpWhole(t *testing.T) {
	var s llm.Stats
	fill(t, reflect.ValueOf(&s).Elem(), 1)
	if n := reflect.TypeFor[llm.Stats]().NumField(); n != 12 {
		t.Errorf("llm.Stats has %d fields: is the new one a metric?", n)
	}
	m := observe.NewMetrics()
	m.AddModel("a", "b", clerk(s))
	zero := 0
	for name, value := range series(scrape(t, m)) {
		if strings.HasPrefix(name, "converge_llm_") && value == 0 {
			zero++
		}
	}
	// Every call failed, and the one refusal there is has a made-up reason.
	if want := 1 + len(llm.Reasons()); zero != want {
		t.Errorf("%d series of a filled model are 0, want %d", zero, want)
	}
}

func TestServersAreShownByTheirNames(t *testing.T) {
	m := observe.NewMetrics()
	wantSeries(t, m, "converge_mcp_", nil)
	m.AddServer("files", func() observe.Server { return observe.Server{} })
	m.AddServer("files", func() observe.Server { return observe.Server{Up: true, Restarts: 3, Blocked: 2} }) // takes its place
	m.AddServer("web", func() observe.Server { return observe.Server{Restarts: 1} })
	wantSeries(t, m, "converge_mcp_", map[string]float64{
		`converge_mcp_up{server="files"}`:             1,
		`converge_mcp_up{server="web"}`:               0,
		`converge_mcp_restarts_total{server="files"}`: 3,
		`converge_mcp_restarts_total{server="web"}`:   1,
		`converge_mcp_blocked_tools{server="files"}`:  2,
		`converge_mcp_blocked_tools{server="web"}`:    0,
	})
}

func TestDiscoveryIsCounted(t *testing.T) {
	m := observe.NewMetrics()
	wantSeries(t, m, "converge_discovery_", nil)
	wantSeries(t, m, "converge_gossip_", nil)
	for range 2 {
		m.AddDiscovery(known{Known: 5, Refused: 1})
		m.AddGossip(told{Sent: 1, Dropped: 2, Malformed: 3, Taken: 4, Old: 5, Refused: 6})
	}
	wantSeries(t, m, "converge_discovery_", map[string]float64{
		"converge_discovery_agents": 10, "converge_discovery_refused_total": 2,
	})
	wantSeries(t, m, "converge_gossip_", map[string]float64{
		`converge_gossip_messages_total{event="sent"}`:      2,
		`converge_gossip_messages_total{event="dropped"}`:   4,
		`converge_gossip_messages_total{event="malformed"}`: 6,
		`converge_gossip_items_total{outcome="taken"}`:      8,
		`converge_gossip_items_total{outcome="old"}`:        10,
		`converge_gossip_items_total{outcome="refused"}`:    12,
	})
}
