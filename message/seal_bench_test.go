package message_test

import (
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// benchKeys are the sealing keys of n agents, and a source that holds them ready as a registry does.
func benchKeys(n int, suite identity.SealingSuite) ([]identity.ID, *identity.SealingSource, testKey) {
	to, encoded := make([]identity.ID, n), map[identity.ID][]byte{}
	for i := range to {
		to[i] = identity.ID{byte(i + 1)}
		encoded[to[i]] = testKey{suite, byte(i + 1)}.public().Bytes()
	}
	return to, identity.NewSealingSource(func(id identity.ID) ([]byte, error) { return encoded[id], nil }), testKey{suite, 1}
}

// sealedDrafts are messages of 256 bytes to everybody, sealed to some.
func sealedDrafts(n int, to []identity.ID) []message.Draft {
	drafts := make([]message.Draft, n)
	for i := range drafts {
		drafts[i] = message.Draft{Body: make([]byte, 256), SealTo: to}
	}
	return drafts
}

var sealBenches = []struct {
	name  string
	suite identity.SealingSuite
	n     int
}{
	{"hybrid", identity.MLKEM768X25519, 1}, {"hybrid-to-8", identity.MLKEM768X25519, 8}, {"x25519", identity.X25519, 1},
}

// BenchmarkSealAndSign is the cost of one message that is signed alone.
func BenchmarkSealAndSign(b *testing.B) {
	for _, bench := range sealBenches {
		b.Run(bench.name, func(b *testing.B) {
			to, source, _ := benchKeys(bench.n, bench.suite)
			s := newSealer(newClock(), source)
			d := sealedDrafts(1, to)[0]
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Sign(b.Context(), d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSealAndSignBatch is the cost of one message of a batch of 256.
func BenchmarkSealAndSignBatch(b *testing.B) {
	for _, bench := range sealBenches {
		b.Run(bench.name, func(b *testing.B) {
			to, source, _ := benchKeys(bench.n, bench.suite)
			s := newSealer(newClock(), source)
			batch := sealedDrafts(256, to)
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(batch) {
				s.SignEach(b.Context(), batch[:min(len(batch), b.N-i)], func(_ int, _ *message.Message, err error) {
					if err != nil {
						b.Fatal(err)
					}
				})
			}
		})
	}
}

// BenchmarkVerifyAndOpen is the cost of one message that was signed alone, and of one of a batch.
func BenchmarkVerifyAndOpen(b *testing.B) {
	for _, mode := range []string{"single", "batch"} {
		for _, bench := range sealBenches {
			b.Run(mode+"/"+bench.name, func(b *testing.B) { benchOpen(b, bench.suite, bench.n, mode == "batch") })
		}
	}
}

func benchOpen(b *testing.B, suite identity.SealingSuite, n int, batch bool) {
	c := newClock()
	to, source, key := benchKeys(n, suite)
	s := newSealer(c, source, func(c *message.SignerConfig) {
		if !batch {
			c.Mode = message.Single
		}
	})
	signed, errs := s.SignAll(b.Context(), sealedDrafts(512, to))
	if errs != nil {
		b.Fatal(errs)
	}
	keys := ring(b, c, key)
	fresh := func() *message.Verifier {
		return configured(message.VerifierConfig{Now: c.Now, Sealing: keys})
	}
	v, next := fresh(), 0
	b.ReportAllocs()
	for b.Loop() {
		if next == len(signed) { // or all would be replays
			v, next = fresh(), 0
		}
		if _, err := v.Verify(signed[next].Raw()); err != nil {
			b.Fatal(err)
		}
		next++
	}
}
