//go:build unix

package task_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/task"
)

// BenchmarkAmong measures operations among few and among many pending tasks: they should cost the same. On
// a machine that others use too, cpu-ns/op says more than ns/op.
func BenchmarkAmong(b *testing.B) {
	for _, pending := range []int{10, 1000000} {
		m, p := newBench(b)
		detach := m.Attach(func(task.Task) {})
		submitAll(b, m, pending)
		b.Run(fmt.Sprintf("pending=%d", pending), func(b *testing.B) { among(b, m, p) })
		detach()
	}
}

// among runs operations that leave as many tasks pending as there were.
func among(b *testing.B, m *task.Manager, p task.Profile) {
	ctx := b.Context()
	spec := task.Spec{Kind: "work", Submitter: submitter, Capabilities: []string{"work"}, MaxAttempts: 1}
	dead, err := m.Submit(ctx, spec)
	if err != nil {
		b.Fatal(err)
	}
	measure := func(name string, do func() error) {
		b.Run(name, func(b *testing.B) {
			begin := cpuTime()
			for range b.N {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime()-begin)/float64(b.N), "cpu-ns/op")
		})
	}
	measure("submit+cancel", func() error {
		k, err := m.Submit(ctx, spec)
		if err == nil {
			_, err = m.Cancel(ctx, k.ID, submitter)
		}
		return err
	})
	measure("claim+release", func() error {
		c, _, err := m.Claim(ctx, dead.ID, p)
		if err == nil {
			_, err = m.Release(ctx, c)
		}
		return err
	})
	measure("claim+fail+requeue", func() error {
		c, _, err := m.Claim(ctx, dead.ID, p)
		if err == nil {
			_, err = m.Fail(ctx, c, "no")
		}
		if err == nil {
			_, err = m.Requeue(ctx, dead.ID, submitter)
		}
		return err
	})
	measure("visible", func() error {
		if n := len(m.Visible(p, 10)); n != 10 {
			return fmt.Errorf("%d are visible", n)
		}
		return nil
	})
}

// cpuTime returns the nanoseconds of processor time that this process has taken.
func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkAttach measures the start of a manager on a store with many tasks that have ended.
func BenchmarkAttach(b *testing.B) {
	const ended = 200000
	m, p := newBench(b)
	detach := m.Attach(func(task.Task) {})
	claimAndReport(b, m, p, submitAll(b, m, ended))
	detach()
	b.ResetTimer()
	begin := cpuTime()
	for range b.N {
		m.Attach(func(task.Task) {})()
	}
	b.ReportMetric(float64(cpuTime()-begin)/float64(b.N)/ended, "cpu-ns/task")
}
