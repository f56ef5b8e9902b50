package observe_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/observe"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// decide is an agent that is a function.
type decide func(context.Context, converge.Turn) ([]converge.Decision, error)

func (d decide) Decide(ctx context.Context, t converge.Turn) ([]converge.Decision, error) {
	return d(ctx, t)
}

// idle is an agent that does nothing.
func idle(context.Context, converge.Turn) ([]converge.Decision, error) { return nil, nil }

// world is where the agents of a test meet.
type world struct {
	t        *testing.T
	wires    *local.Network
	registry *identity.Registry
}

func newWorld(t *testing.T) *world {
	return &world{t, must(local.New(local.Config{})), identity.NewRegistry(0)}
}

// runtime makes the runtime of an agent that everybody knows.
func (w *world) runtime(id *identity.Identity, c converge.Config) *converge.Runtime {
	w.t.Helper()
	if err := w.registry.Register(id.ID(), id.PublicKey()); err != nil {
		w.t.Fatal(err)
	}
	c.Identity, c.Network, c.Registry, c.Transport = id, network, w.registry, w.wires.Endpoint(id.ID())
	c.Logger = slog.New(slog.DiscardHandler)
	if c.Agent == nil {
		c.Agent = decide(idle)
	}
	return must(converge.New(c))
}

// run runs r until stop is called, at the latest at the end of the test.
func (w *world) run(r *converge.Runtime) (stop func()) {
	w.t.Helper()
	return testkit.Run(w.t, r)
}

func get(m *observe.Metrics, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

// scrape returns what /metrics says, by family.
func scrape(t *testing.T, m *observe.Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	w := get(m, "GET", "/metrics")
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d %s", w.Code, w.Body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

type agentHealth struct {
	Name        string  `json:"name"`
	State       string  `json:"state"`
	BusySeconds float64 `json:"busy_seconds"`
	Inbox       int     `json:"inbox"`
}

// health returns the answer of a health endpoint.
func health(t *testing.T, m *observe.Metrics, path string) (status int, agents []agentHealth) {
	t.Helper()
	w := get(m, "GET", path)
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("GET %s: Content-Type %q", path, got)
	}
	var body struct{ Agents []agentHealth }
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	if body.Agents == nil {
		t.Errorf("GET %s: agents is null, and not a list", path)
	}
	return w.Code, body.Agents
}
