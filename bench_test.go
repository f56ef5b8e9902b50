package converge_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

// counting is an agent that counts messages.
type counting struct{ seen atomic.Int64 }

func (c *counting) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	c.seen.Add(int64(len(t.Messages)))
	return nil, nil
}

// BenchmarkEndToEndLocal is the whole path of a message in one process: hooks, signature, transport,
// verification, replay window, rate limits, inbox, turn.
func BenchmarkEndToEndLocal(b *testing.B) { benchmarkEndToEnd(b, converge.AuditConfig{}) }

// BenchmarkEndToEndLocalAudited is the same with receipts of both agents.
func BenchmarkEndToEndLocalAudited(b *testing.B) {
	l := openBook(b, b.TempDir())
	defer l.Close()
	benchmarkEndToEnd(b, converge.AuditConfig{Log: l})
}

func benchmarkEndToEnd(b *testing.B, receipts converge.AuditConfig) {
	registry := identity.NewRegistry(0)
	network := must(local.New(local.Config{}))
	newConfig := func(a converge.Agent) converge.Config {
		id := must(identity.Generate())
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			b.Fatal(err)
		}
		return converge.Config{Identity: id, Network: "bench", Agent: a, Registry: registry, Transport: network.Endpoint(id.ID()), Logger: quiet, Audit: receipts}
	}
	receiver := &counting{}
	c := newConfig(receiver)
	generous := ratelimit.Limit{Rate: 1e8, Burst: 1e8}
	c.Hooks = []transport.Hook{ratelimit.NewHook(must(ratelimit.New(ratelimit.Config{Global: generous, Sender: generous, Topic: generous})))}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 2)
	receiving := must(converge.New(c))
	go func() { ended <- receiving.Run(ctx) }()
	for !receiving.Ready() {
		runtime.Gosched()
	}
	to, body := c.Identity.ID(), make([]byte, 256)
	sent := 0
	sender := newConfig(agentFunc(func(converge.Turn) ([]converge.Decision, error) {
		const batch = 64
		var d []converge.Decision
		for range min(batch, b.N-sent) {
			d = append(d, converge.SendMessage{Draft: message.Draft{To: to, Body: body}})
			sent++
		}
		if sent < b.N {
			d = append(d, converge.Wake{})
		}
		return d, nil
	}))
	b.ReportAllocs()
	b.ResetTimer()
	go func() { ended <- must(converge.New(sender)).Run(ctx) }()
	for receiver.seen.Load() < int64(b.N) {
		runtime.Gosched()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	stop()
	<-ended
	<-ended
}

// BenchmarkIdleAgents reports what ten thousand agents that wait cost.
func BenchmarkIdleAgents(b *testing.B) {
	const agents = 10_000
	for b.Loop() {
		registry := identity.NewRegistry(0)
		network := must(local.New(local.Config{}))
		tasks := must(task.New(task.Config{
			Store: must(memory.New(memory.Config{})), Verifier: must(task.NewVerifier(registry, "bench")),
		}))
		memoryBefore, goroutines := memoryInUse(), runtime.NumGoroutine()
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error, agents)
		var ready atomic.Int64
		started := agentFunc(func(converge.Turn) ([]converge.Decision, error) { ready.Add(1); return nil, nil })
		for range agents {
			id := must(identity.Generate())
			if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
				b.Fatal(err)
			}
			limit := ratelimit.Limit{Rate: 100, Burst: 100}
			r := must(converge.New(converge.Config{
				Identity: id, Network: "bench", Agent: started, Registry: registry, Transport: network.Endpoint(id.ID()), Logger: quiet, Tasks: tasks,
				Hooks: []transport.Hook{ratelimit.NewHook(must(ratelimit.New(ratelimit.Config{Global: limit, Sender: limit, Topic: limit})))},
			}))
			go func() { ended <- r.Run(ctx) }()
		}
		for ready.Load() < agents {
			runtime.Gosched()
		}
		b.ReportMetric(float64(memoryInUse()-memoryBefore)/1e6, "MB")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/agents, "goroutines/agent")
		cpu := processTime()
		time.Sleep(time.Second) // what is measured is that nothing happens
		b.ReportMetric(100*(processTime()-cpu).Seconds(), "%cpu")
		stop()
		for range agents {
			<-ended
		}
	}
}

func memoryInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
