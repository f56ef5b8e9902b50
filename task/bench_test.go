package task_test

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

// BenchmarkClaimReport measures one claim and one report with concurrent callers, for a steady flow, in
// which a thousand tasks wait at most, and for a heap of all the tasks of the run, which no cache holds.
func BenchmarkClaimReport(b *testing.B) {
	for _, attached := range []bool{true, false} {
		for _, waiting := range []int{1000, math.MaxInt} {
			name := fmt.Sprintf("attached=%t/waiting=%d", attached, waiting)
			if waiting == math.MaxInt {
				name = fmt.Sprintf("attached=%t/waiting=all", attached)
			}
			b.Run(name, func(b *testing.B) {
				m, profile := newBench(b)
				if attached {
					defer m.Attach(func(task.Task) {})()
				}
				b.ReportAllocs()
				b.ResetTimer()
				for left := b.N; left > 0; left -= waiting {
					b.StopTimer()
					ids := submitAll(b, m, min(left, waiting))
					b.StartTimer()
					claimAndReport(b, m, profile, ids)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			})
		}
	}
}

// claimAndReport works off tasks with two callers for each processor.
func claimAndReport(b *testing.B, m *task.Manager, p task.Profile, ids []string) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(ids)); i = next.Add(1) - 1 {
				claim, _, err := m.Claim(b.Context(), ids[i], p)
				if err == nil {
					_, err = m.Report(b.Context(), claim, []byte("done"), "text/plain")
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkSubmit(b *testing.B) {
	m, _ := newBench(b)
	defer m.Attach(func(task.Task) {})()
	b.ReportAllocs()
	b.ResetTimer()
	submitAll(b, m, b.N)
}

// BenchmarkVisible looks up ten tasks among 100,000 of 1,000 capabilities.
func BenchmarkVisible(b *testing.B) {
	m, profile := newBench(b)
	defer m.Attach(func(task.Task) {})()
	for i := range 100000 {
		spec := task.Spec{Kind: "work", Submitter: submitter, Capabilities: []string{fmt.Sprintf("c%d", i%1000)}}
		if _, err := m.Submit(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
	profile.Capabilities = []string{"c1", "c500", "c999"}
	b.ReportAllocs()
	for b.Loop() {
		if n := len(m.Visible(profile, 10)); n != 10 {
			b.Fatal(n)
		}
	}
}

func newBench(b *testing.B) (*task.Manager, task.Profile) {
	b.Helper()
	s, err := memory.New(memory.Config{MaxEntries: 1 << 26, MaxBytes: 1 << 34})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	m, err := task.New(task.Config{Store: s, UnsignedUnsafe: true, MaxPending: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	return m, task.Profile{Agent: identity.ID{1}, Capabilities: []string{"work"}}
}

func submitAll(b *testing.B, m *task.Manager, n int) []string {
	b.Helper()
	ids := make([]string, n)
	for i := range ids {
		t, err := m.Submit(b.Context(), task.Spec{Kind: "work", Submitter: submitter, Capabilities: []string{"work"}})
		if err != nil {
			b.Fatal(err)
		}
		ids[i] = t.ID
	}
	return ids
}
