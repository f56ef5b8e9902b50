package proof_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/internal/proof"
)

// BenchmarkSign is the cost of one statement with so many callers at once.
func BenchmarkSign(b *testing.B) {
	for _, callers := range []int{1, 4, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			signer := proof.NewSigner(alice)
			s := proof.Statement{Kind: work, Payload: make([]byte, 200)}
			b.ReportAllocs()
			each(b, callers, func(int) { signer.Sign(s) })
		})
	}
}

// BenchmarkVerify is the cost of one statement of batches of so many, read in the order of their keys,
// that is in none.
func BenchmarkVerify(b *testing.B) {
	for _, batch := range []int{1, 4, 64, 256} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			const n = 16 << 10
			signer, v := proof.NewSigner(alice), newVerifier()
			all := numbered(n)
			var proofs [][]byte
			for first := 0; first < n; first += batch {
				proofs = append(proofs, signer.SignAll(all[first:first+batch])...)
			}
			b.ReportAllocs()
			b.ResetTimer()
			each(b, 8, func(i int) {
				i = i * 7919 % n
				if err := v.Verify(alice.ID(), all[i], proofs[i]); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// each calls fn b.N times from so many goroutines.
func each(b *testing.B, callers int, fn func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				fn(int(i))
			}
		})
	}
	all.Wait()
}
