package observe_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/observe"
)

const (
	good = http.StatusOK
	bad  = http.StatusServiceUnavailable
)

func expectHealth(t *testing.T, m *observe.Metrics, when string, live, ready int, want ...agentHealth) {
	t.Helper()
	for path, status := range map[string]int{"/healthz": live, "/readyz": ready} {
		got, agents := health(t, m, path)
		if got != status {
			t.Errorf("%s: %s is %d, want %d", when, path, got, status)
		}
		if !slices.Equal(agents, want) {
			t.Errorf("%s: %s shows %+v, want %+v", when, path, agents, want)
		}
	}
}

func TestHealthThroughALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(t), observe.NewMetrics()
		expectHealth(t, m, "no agents", good, good)

		draining, drained := make(chan struct{}), make(chan struct{})
		r := w.runtime(agent(1), converge.Config{Name: "alice", Agent: stopper{decide(idle), func() {
			close(draining)
			<-drained
		}}})
		m.Add(r)
		expectHealth(t, m, "new", good, bad, agentHealth{Name: "alice", State: "new"})
		stop := w.run(r)
		synctest.Wait()
		expectHealth(t, m, "running", good, good, agentHealth{Name: "alice", State: "running"})

		go stop()
		<-draining
		expectHealth(t, m, "draining", good, bad, agentHealth{Name: "alice", State: "draining"})
		close(drained)
		synctest.Wait()
		expectHealth(t, m, "stopped", good, bad, agentHealth{Name: "alice", State: "stopped"})
		m.Remove(r)
		expectHealth(t, m, "removed", good, good)
	})
}

// stopper is an agent that takes its time to stop.
type stopper struct {
	decide
	stop func()
}

func (s stopper) OnStop(context.Context) error {
	s.stop()
	return nil
}

// TestStuckAgentIsNotHealthy has an agent ignore the end of its context.
func TestStuckAgentIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(t), observe.NewMetrics()
		release := make(chan struct{})
		m.Add(w.runtime(agent(1), converge.Config{Name: "fine"}))
		stuck := w.runtime(agent(2), converge.Config{
			Name:          "stuck",
			DecideTimeout: 10 * time.Second,
			Agent:         decide(func(context.Context, converge.Turn) ([]converge.Decision, error) { <-release; return nil, nil }),
		})
		m.Add(stuck)
		stop := w.run(stuck)
		synctest.Wait()
		fine := agentHealth{Name: "fine", State: "new"}
		time.Sleep(20 * time.Second)
		expectHealth(t, m, "late", good, bad, fine, agentHealth{Name: "stuck", State: "running", BusySeconds: 20})
		time.Sleep(time.Millisecond)
		expectHealth(t, m, "stuck", bad, bad, fine, agentHealth{Name: "stuck", State: "running", BusySeconds: 20.001})
		close(release)
		synctest.Wait()
		expectHealth(t, m, "released", good, bad, fine, agentHealth{Name: "stuck", State: "running"})
		stop()
	})
}

func TestOneAgentThatIsNotReadyIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(t), observe.NewMetrics()
		first, second := w.runtime(agent(1), converge.Config{Name: "1"}), w.runtime(agent(2), converge.Config{Name: "2"})
		m.Add(first)
		m.Add(second)
		w.run(first)
		synctest.Wait()
		if status, _ := health(t, m, "/readyz"); status != bad {
			t.Errorf("one of two is ready: %d", status)
		}
		w.run(second)
		synctest.Wait()
		if status, _ := health(t, m, "/readyz"); status != good {
			t.Errorf("both are ready: %d", status)
		}
	})
}

// TestReadyOnlyOnceAllThatIsRequiredIsMet: that something else is away makes an agent useless, not ill.
func TestReadyOnlyOnceAllThatIsRequiredIsMet(t *testing.T) {
	m, reached := observe.NewMetrics(), false
	m.Require("always", func() bool { return true })
	m.Require("tasks at host", func() bool { return reached })
	for _, want := range []struct {
		status int
		body   string
	}{
		{bad, `{"agents":[],"required":[{"name":"always","met":true},{"name":"tasks at host","met":false}]}`},
		{good, `{"agents":[],"required":[{"name":"always","met":true},{"name":"tasks at host","met":true}]}`},
	} {
		if w := get(m, "GET", "/readyz"); w.Code != want.status || strings.TrimSpace(w.Body.String()) != want.body {
			t.Errorf("/readyz says %d %s, want %d %s", w.Code, w.Body, want.status, want.body)
		}
		if w := get(m, "GET", "/healthz"); w.Code != good || strings.TrimSpace(w.Body.String()) != want.body {
			t.Errorf("/healthz says %d %s, want %d %s", w.Code, w.Body, good, want.body)
		}
		reached = true
	}
}

func TestHandlerOnlyAnswersReads(t *testing.T) {
	m := observe.NewMetrics()
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			w := get(m, method, path)
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow: %q", method, path, w.Code, w.Header().Get("Allow"))
			}
		}
		if w := get(m, "HEAD", path); w.Code != good {
			t.Errorf("HEAD %s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/x", "/healthz/"} {
		if w := get(m, "GET", path); w.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
}
