//go:build unix

package tcp_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

// BenchmarkFrames carries frames of 600 bytes from one process's worth of network to another, over TLS on
// the loopback interface.
func BenchmarkFrames(b *testing.B) {
	alice, bob := pair(b, tcp.Config{})
	frame := make([]byte, 600)
	route := transport.Route{To: bob.ID()}
	received := make(chan struct{})
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	go func() {
		defer close(received)
		for range b.N {
			if _, err := bob.Receive(b.Context()); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for range b.N {
		if err := alice.Send(b.Context(), route, frame); err != nil {
			b.Fatal(err)
		}
	}
	<-received
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// cpuTime returns the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
