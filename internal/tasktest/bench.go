package tasktest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// waiting is how many tasks wait at most.
const waiting = 8192

// Bench measures how many tasks a second are claimed and then reported on a store, by 64, 256 and 1,024 callers of
// one manager that somebody is attached to, as its agents' word and with their signatures, which are made and
// verified. Up to 8,192 tasks wait at a time; what it takes to submit them does not count, and until all who are attached
// have been told of every end does. The processor time of a task, that of this process, suffers least from what else
// the machine does.
func Bench(b *testing.B, s store.Store) {
	for _, signed := range []bool{false, true} {
		for _, callers := range []int{64, 256, 1024} {
			b.Run(fmt.Sprintf("signed=%t/callers=%d", signed, callers), func(b *testing.B) {
				c := newCrew(b, s)
				if !signed {
					c.manager = unsignedManager(b, s)
				}
				var told audience
				defer c.manager.Attach(told.hear)()
				var used time.Duration
				b.ReportAllocs()
				b.ResetTimer()
				for left := b.N; left > 0; left -= waiting {
					b.StopTimer()
					told.expect(task.Pending, min(left, waiting))
					ids := c.submit(b, min(left, waiting), signed)
					told.wait()
					before := cpuTime()
					b.StartTimer()
					told.expect(task.Completed, len(ids))
					c.claimAndReport(b, callers, ids, signed)
					told.wait()
					b.StopTimer()
					used += cpuTime() - before
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
				b.ReportMetric(float64(used.Microseconds())/float64(b.N), "CPU-µs/task")
			})
		}
	}
}

func unsignedManager(b *testing.B, s store.Store) *task.Manager {
	b.Helper()
	m, err := task.New(task.Config{Store: s, UnsignedUnsafe: true, Retention: task.Forever, MaxPending: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// audience is somebody who is attached, and waits to be told of so many tasks in a state.
type audience struct {
	status task.Status
	left   atomic.Int64
	all    chan struct{} // closed when they have been
}

// expect begins anew. Nothing may be told meanwhile.
func (a *audience) expect(status task.Status, n int) {
	a.status, a.all = status, make(chan struct{})
	a.left.Store(int64(n))
}

func (a *audience) hear(k task.Task) {
	if k.Status == a.status && a.left.Add(-1) == 0 {
		close(a.all)
	}
}

func (a *audience) wait() { <-a.all }

// submit returns the IDs of so many new tasks.
func (c *crew) submit(b *testing.B, n int, signed bool) []string {
	b.Helper()
	ids := make([]string, n)
	const chunk = 256
	var next atomic.Int64
	inParallel(chunk, func() bool {
		first := int(next.Add(1)-1) * chunk
		specs := make([]*task.Spec, max(0, min(chunk, n-first)))
		for i := range specs {
			specs[i] = &task.Spec{Kind: kind, Submitter: c.submitter.ID()}
		}
		if signed {
			if errs := c.submitter.SignSpecs(specs...); errs != nil {
				b.Error(errs)
				return false
			}
		}
		for i, spec := range specs {
			k, err := c.manager.Submit(context.Background(), *spec)
			if err != nil {
				b.Error(err)
				return false
			}
			ids[first+i] = k.ID
		}
		return len(specs) > 0
	})
	if b.Failed() {
		b.FailNow()
	}
	return ids
}

func (c *crew) claimAndReport(b *testing.B, callers int, ids []string, signed bool) {
	var next atomic.Int64
	inParallel(callers, func() bool {
		i := next.Add(1) - 1
		if i >= int64(len(ids)) {
			return false
		}
		if err := c.claimAndReportOne(ids[i], signed); err != nil {
			b.Error(err)
			return false
		}
		return true
	})
}

func (c *crew) claimAndReportOne(id string, signed bool) error {
	claim, _, err := c.manager.Claim(context.Background(), id, c.profile)
	if err != nil {
		return err
	}
	if signed {
		return c.reportSigned(claim)
	}
	_, err = c.manager.Report(context.Background(), claim, []byte("done"), "text/plain")
	return err
}

func (c *crew) reportSigned(claim task.Claim) error {
	ending := task.Completion(claim, []byte("done"), "text/plain")
	if errs := c.worker.SignEndings(&ending); errs != nil {
		return errs[0]
	}
	_, err := c.manager.End(context.Background(), ending)
	return err
}

// inParallel calls more in so many goroutines for as long as it returns true.
func inParallel(callers int, more func() bool) {
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for more() {
			}
		})
	}
	all.Wait()
}
