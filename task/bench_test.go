package task_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

// BenchmarkClaimReport measures one claim and one report of a task that waits among all the others of
// the run, with concurrent callers.
func BenchmarkClaimReport(b *testing.B) {
	for _, attached := range []bool{true, false} {
		b.Run(fmt.Sprintf("attached=%t", attached), func(b *testing.B) {
			m, profile := newBench(b)
			if attached {
				defer m.Attach(func(task.Task) {})()
			}
			ids := submitAll(b, m, b.N)
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					claim, _, err := m.Claim(b.Context(), ids[next.Add(1)-1], profile)
					if err == nil {
						_, err = m.Report(b.Context(), claim, []byte("done"), "text/plain")
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
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
	m, err := task.New(task.Config{Store: s, MaxPending: 1 << 30})
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
