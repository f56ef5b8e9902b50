package approval_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

var errKilled = errors.New("the process was killed")

// mortal is a store that a process has, until it is killed: what it still tries to do does not happen.
type mortal struct {
	store.Store
	dead atomic.Bool
}

func (m *mortal) Get(ctx context.Context, key string) (store.Entry, error) {
	if m.dead.Load() {
		return store.Entry{}, errKilled
	}
	return m.Store.Get(ctx, key)
}

func (m *mortal) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if m.dead.Load() {
		return 0, errKilled
	}
	return m.Store.Put(ctx, key, value, rev)
}

func (m *mortal) Delete(ctx context.Context, key string, rev store.Revision) error {
	if m.dead.Load() {
		return errKilled
	}
	return m.Store.Delete(ctx, key, rev)
}

// process is a service with a connection of its own to the store.
type process struct {
	*approval.Service
	store    *mortal
	mu       sync.Mutex
	verdicts []approval.Verdict
}

func (p *process) outcomes() (all []approval.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.verdicts {
		all = append(all, v.Outcome)
	}
	return all
}

func (p *process) last() approval.Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verdicts[len(p.verdicts)-1]
}

func newStore(t testing.TB) *memory.Store {
	t.Helper()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB, s store.Store, c approval.Config) *process {
	t.Helper()
	p := &process{store: &mortal{Store: s}}
	c.Store, c.Logger = p.store, quiet
	if c.Key == nil {
		c.Key = []byte("the key that the processes share")
	}
	c.Record = func(v approval.Verdict) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.verdicts = append(p.verdicts, v)
	}
	if c.Policy == nil {
		c.Policy = policy.BuiltIn()
	}
	var err error
	if p.Service, err = approval.New(c); err != nil {
		t.Fatal(err)
	}
	return p
}

func wipe() tool.Request {
	return tool.Request{
		Agent: "ada", AgentID: "00ff", Tool: "wipe", Description: "wipes a disk", Annotations: tool.Annotations{Destructive: true},
		Params: json.RawMessage(`{"disk": "sda"}`), Taint: taint.Of(taint.Peer("01")), TaskID: "t-1", CallID: "c-1", Cause: 7,
	}
}

// asked begins a call and returns where its end will be told, once it waits.
func asked(ctx context.Context, p *process, r tool.Request) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- p.Approve(ctx, r) }()
	synctest.Wait()
	return ended
}

// only returns the one request that waits.
func only(t testing.TB, p *process) approval.Request {
	t.Helper()
	all, err := p.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d requests, %v, want one", len(all), err)
	}
	return all[0]
}

func none(t testing.TB, s store.Store) {
	t.Helper()
	for e, err := range s.List(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the store still has %q", e.Key)
	}
}

func answer(t testing.TB, p *process, id string, allow bool) {
	t.Helper()
	if _, err := p.Decide(t.Context(), id, approval.Decision{Allow: allow, By: "root (uid 0)", Claimed: "eve", Note: "on Friday"}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func waits(t testing.TB, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		t.Fatalf("the call ended with %v instead of waiting", err)
	default:
	}
}

func wantEnd(t testing.TB, ended <-chan error, want error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Fatalf("the call ended with %v, want %v", err, want)
		}
	default:
		t.Fatalf("the call still waits, want %v", want)
	}
}

const minute = time.Minute
