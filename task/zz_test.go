package task_test
import ("testing";"os";"runtime/pprof";"sync/atomic";"syscall";"github.com/converge-agents/converge/task")
func BenchmarkZZ(b *testing.B) {
	m, profile := newBench(b)
	if os.Getenv("NOATT") == "" { defer m.Attach(func(task.Task) {})() }
	ids := submitAll(b, m, b.N)
	var next atomic.Int64
	if b.N > 10000 { f, _ := os.Create("/tmp/zz.prof"); pprof.StartCPUProfile(f) }
	var r0, r1 syscall.Rusage
	syscall.Getrusage(0, &r0)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			claim, _, err := m.Claim(b.Context(), ids[next.Add(1)-1], profile)
			if err == nil { _, err = m.Report(b.Context(), claim, []byte("done"), "text/plain") }
			if err != nil { b.Error(err); return }
		}
	})
	b.StopTimer()
	syscall.Getrusage(0, &r1)
	pprof.StopCPUProfile()
	b.ReportMetric(float64(r1.Utime.Nano()-r0.Utime.Nano())/float64(b.N), "user-ns/op")
	b.ReportMetric(float64(r1.Stime.Nano()-r0.Stime.Nano())/float64(b.N), "sys-ns/op")
	b.ReportMetric(float64(r1.Minflt-r0.Minflt)/float64(b.N), "faults/op")
}
