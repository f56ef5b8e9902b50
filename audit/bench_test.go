package audit_test

import (
	"testing"

	"github.com/converge-agents/converge/audit"
)

func benchReceipt() audit.Receipt {
	return audit.Receipt{Kind: audit.KindCall, Agent: key.ID(), Subject: "0123456789abcdef0123456789abcdef", Action: "fs.read_text_file",
		Outcome: "begun", Input: [32]byte{1}, Causes: []uint64{1}, Taint: []string{"tool:fs.read_text_file"}}
}

func BenchmarkAppend(b *testing.B) {
	l := open(b, config(b.TempDir()))
	r := benchReceipt()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(&r); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "receipts/s")
}

// BenchmarkSynced has 64 callers, each of which waits for each of its receipts.
func BenchmarkSynced(b *testing.B) {
	l := open(b, config(b.TempDir()))
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		r := benchReceipt()
		for pb.Next() {
			seq, err := l.Append(&r)
			if err == nil {
				err = l.Sync(b.Context(), seq)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "receipts/s")
	b.ReportMetric(float64(b.N)/float64(l.Stats().Syncs), "receipts/sync")
}

func BenchmarkVerify(b *testing.B) {
	c := config(b.TempDir())
	l := open(b, c)
	r := benchReceipt()
	for range 100_000 {
		if _, err := l.Append(&r); err != nil {
			b.Fatal(err)
		}
	}
	l.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.Verify(audit.Check{Key: key.ID()}, c.Dir); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "receipts/s")
}
