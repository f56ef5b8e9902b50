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
	return newBenchManager(b, func(*task.Config) {}), task.Profile{Agent: identity.ID{1}, Capabilities: []string{"work"}}
}

func newBenchManager(b *testing.B, option func(*task.Config)) *task.Manager {
	b.Helper()
	s, err := memory.New(memory.Config{MaxEntries: 1 << 26, MaxBytes: 1 << 34})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return newManager(b, s, func(c *task.Config) { c.MaxPending = 1 << 30; option(c) })
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

// BenchmarkSignedTasks measures a submission, and a claim with a report, that their agents sign and the manager
// verifies, beside the same without signatures. Who calls at the same time shares a signature.
func BenchmarkSignedTasks(b *testing.B) {
	for _, callers := range []int{1, 4, 64, 256} {
		for _, sign := range []bool{false, true} {
			m := newBenchManager(b, func(c *task.Config) {
				if sign {
					c.Verifier, c.UnsignedUnsafe = newVerifier(b), false
				}
			})
			stop := m.Attach(func(task.Task) {})
			boss, worker := signerOf(b, ann), signerOf(b, ben)
			ids := make(chan string, 1<<22)
			name := fmt.Sprintf("callers=%d/signed=%t", callers, sign)
			b.Run("submit/"+name, func(b *testing.B) {
				inParallel(b, callers, func() error {
					spec := task.Spec{Kind: "work", Submitter: ann.ID()}
					if sign {
						if errs := boss.SignSpecs(&spec); errs != nil {
							return errs[0]
						}
					}
					t, err := m.Submit(b.Context(), spec)
					ids <- t.ID
					return err
				})
			})
			b.Run("claim+report/"+name, func(b *testing.B) {
				for len(ids) < b.N {
					b.StopTimer()
					spec := task.Spec{Kind: "work"}
					if errs := boss.SignSpecs(&spec); errs != nil {
						b.Fatal(errs)
					}
					if _, err := m.Submit(b.Context(), spec); err != nil {
						b.Fatal(err)
					}
					ids <- spec.ID
					b.StartTimer()
				}
				inParallel(b, callers, func() error {
					claim, _, err := m.Claim(b.Context(), <-ids, task.Profile{Agent: ben.ID()})
					if err != nil {
						return err
					}
					end := task.Completion(claim, []byte("done"), "text/plain")
					if sign {
						if errs := worker.SignEndings(&end); errs != nil {
							return errs[0]
						}
					}
					_, err = m.End(b.Context(), end)
					return err
				})
			})
			stop()
		}
	}
}

// inParallel calls fn b.N times from so many goroutines.
func inParallel(b *testing.B, callers int, fn func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := fn(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}
