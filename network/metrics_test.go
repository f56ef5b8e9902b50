package network_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/llm/llmtest"
	"github.com/converge-agents/converge/network"
)

// scrape returns what /metrics says, by name and labels as they are written.
func scrape(t *testing.T, n *network.Network) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	n.Metrics().Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d %s", w.Code, w.Body)
	}
	all := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		name, text, found := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseFloat(text, 64); found && err == nil {
			all[name] = value
		}
	}
	return all
}

// wantMetrics compares values, all of which have to be there.
func wantMetrics(t *testing.T, n *network.Network, want map[string]float64) {
	t.Helper()
	got := scrape(t, n)
	for name, value := range want {
		if is, there := got[name]; !there || is != value {
			t.Errorf("%s is %v (there: %v), want %v", name, is, there, value)
		}
	}
}

// clerks are several agents of one entry, whose model has a price.
const clerks = `network: clerks
vars: {url: ""}
models:
  main: {provider: anthropic, model: claude-x, base_url: "${url}", api_key: {env: CLERKS_KEY}, price: {input: 2, output: 10}, attempts: 2}
agents:
- {name: clerk, kind: llm, count: 3, model: main, capabilities: {ask: Answer.}}
- {name: desk, kind: coordinator, tasks: [{capability: ask}]}
`

// TestModelsAreCountedByTheNamesOfTheConfiguration runs a job in which a call fails, one is refused and one is good.
func TestModelsAreCountedByTheNamesOfTheConfiguration(t *testing.T) {
	t.Setenv("CLERKS_KEY", "sk-of-the-clerks")
	server := llmtest.New(llmtest.Sequence(
		llmtest.Reply{Status: 529, Code: "overloaded_error", RetryAfterMS: "1"},
		llmtest.Reply{Calls: []llmtest.Call{{Name: "no_such_function", Args: "{}"}}, Input: 1000, Output: 100},
		llmtest.Reply{Calls: []llmtest.Call{{Name: "report_task", Args: `{"result":"yes"}`}}, Input: 2000, Output: 50},
	))
	defer server.Close()
	c, err := config.Parse("c.yaml", []byte(clerks), config.Options{Vars: map[string]string{"url": server.Anthropic()}})
	check(t, err)
	log, lines := newLog()
	n, err := network.New(t.Context(), c, network.Options{Logger: log})
	check(t, err)
	defer n.Close()
	if r := runJob(t, n); r.Tasks.Completed != 1 {
		t.Fatalf("%+v\n%s", r, lines)
	}
	wantMetrics(t, n, map[string]float64{
		`converge_llm_calls_total{agent="clerk",model="main",outcome="answered"}`:           2,
		`converge_llm_calls_total{agent="clerk",model="main",outcome="failed"}`:             1,
		`converge_llm_retries_total{agent="clerk",model="main"}`:                            1,
		`converge_llm_tokens_total{agent="clerk",direction="in",model="main"}`:              3000,
		`converge_llm_tokens_total{agent="clerk",direction="out",model="main"}`:             150,
		`converge_llm_cost_total{agent="clerk",model="main"}`:                               0.0075,
		`converge_llm_refused_total{agent="clerk",model="main",reason="unknown_function"}`:  1,
		`converge_llm_refused_total{agent="clerk",model="main",reason="invalid_arguments"}`: 0,
		`converge_llm_conversations_total{agent="clerk",event="begun",model="main"}`:        1,
		`converge_llm_conversations_total{agent="clerk",event="failed",model="main"}`:       0,
		`converge_approvals_waiting`:       0,
		`converge_discovery_agents`:        4,
		`converge_discovery_refused_total`: 0,
		`converge_audit_broken`:            0,
	})
	got := scrape(t, n)
	if got["converge_audit_receipts_total"] == 0 || got["converge_audit_receipts_total"] != got["converge_audit_synced_total"] ||
		got["converge_audit_last_sync_timestamp_seconds"] < 1e9 || got["converge_audit_bytes_total"] == 0 {
		t.Errorf("receipts: %v", got)
	}
	wantNoIDs(t, got)
}

var hexID = regexp.MustCompile(`[0-9a-fA-F]{16,}`)

// wantNoIDs looks for IDs, and for agents of one entry that are told apart, in labels.
func wantNoIDs(t *testing.T, got map[string]float64) {
	t.Helper()
	for name := range got {
		if hexID.MatchString(name) || strings.Contains(name, "clerk-") {
			t.Errorf("%s", name)
		}
	}
}

// TestDiscoveryByMessagesIsCounted has two processes hear of each other.
func TestDiscoveryByMessagesIsCounted(t *testing.T) {
	m := newMachines(t, "east", "west")
	agent := func(name, peers string) string {
		return fmt.Sprintf(`
network: machines
transport: tcp
listen: 127.0.0.1:0
discovery: {via: messages}
peers:
%s
tools:
  echo: {command: [cat], stdin: hello}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {greet: echo}, tools: [echo]}
`, peers, name, m.key(name))
	}
	east := run(t, agent("east", m.peer("west", "")), network.Options{})
	west := run(t, agent("west", m.peer("east", ", address: "+strconv.Quote(east.address()))), network.Options{})
	for _, n := range []*network.Network{east.Network, west.Network} {
		var got map[string]float64
		eventually(t, "both agents are known", func() bool {
			got = scrape(t, n)
			return got["converge_discovery_agents"] == 2 && got[`converge_gossip_items_total{outcome="taken"}`] > 0 &&
				got[`converge_gossip_messages_total{event="sent"}`] > 0
		})
		for _, name := range []string{`converge_gossip_messages_total{event="malformed"}`, `converge_gossip_items_total{outcome="refused"}`} {
			if value, there := got[name]; !there || value != 0 {
				t.Errorf("%s is %v (there: %v)", name, value, there)
			}
		}
		wantNoIDs(t, got)
	}
}
