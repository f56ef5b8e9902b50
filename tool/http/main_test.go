package http_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/tool"
	toolhttp "github.com/converge-agents/converge/tool/http"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}

// server is one that remembers what it was asked.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func newServer(t testing.TB, answer http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Clone(context.Background()))
		s.mu.Unlock()
		answer(w, r)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

func (s *server) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		return nil
	}
	return s.seen[len(s.seen)-1]
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// config is that of a tool for the server.
func (s *server) config(path string) toolhttp.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return toolhttp.Config{Name: "it", URL: s.URL + path, RootCAs: roots, PrivateAddresses: loopback}
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/x-echo; charset=utf-8")
	w.Write([]byte(r.Method + " " + r.RequestURI))
}

func newTool(t testing.TB, c toolhttp.Config) *toolhttp.Tool {
	t.Helper()
	it, err := toolhttp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return it
}

var params = testkit.Params

func run(t testing.TB, c toolhttp.Config, values map[string]any) (string, error) {
	t.Helper()
	out, err := newTool(t, c).Run(t.Context(), params(t, values))
	return string(out.Data), err
}

func wantErr(t testing.TB, err, is error, texts ...string) {
	t.Helper()
	if err == nil || is != nil && !errors.Is(err, is) {
		t.Errorf("error %v; want %v", err, is)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q lacks %q", err, text)
		}
	}
}

func guard(t testing.TB, it tool.Tool, o tool.Options) *tool.Guard {
	t.Helper()
	tools := tool.NewRegistry()
	if err := tools.Register(it, o); err != nil {
		t.Fatal(err)
	}
	g, err := tool.NewGuard(tool.GuardConfig{Tools: tools, Allowlist: []string{it.Name()}, MaxConcurrent: 2000})
	if err != nil {
		t.Fatal(err)
	}
	return g
}
