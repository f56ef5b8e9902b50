package message_test

import (
	"testing"

	"github.com/converge-agents/converge/message"
)

// benchFrames are signed messages of 256 bytes from one session.
func benchFrames(b *testing.B, c *clock, n int) [][]byte {
	b.Helper()
	s := newSigner(alice, c)
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = sign(b, s, message.Draft{To: bob.ID(), Body: make([]byte, 256)})
	}
	return frames
}

func BenchmarkSign(b *testing.B) {
	s := newSigner(alice, newClock())
	d := message.Draft{To: bob.ID(), Body: make([]byte, 256)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(b.Context(), d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	c := newClock()
	frames := benchFrames(b, c, 4096)
	v, next := newVerifier(bob, c), 0
	b.ReportAllocs()
	for b.Loop() {
		if next == len(frames) { // or all would be replays
			v, next = newVerifier(bob, c), 0
		}
		if _, err := v.Verify(frames[next]); err != nil {
			b.Fatal(err)
		}
		next++
	}
}

// BenchmarkSignBatch is the cost of one message of a batch of 256.
func BenchmarkSignBatch(b *testing.B) {
	s := newSigner(alice, newClock())
	batch := make([]message.Draft, 256)
	for i := range batch {
		batch[i] = message.Draft{To: bob.ID(), Body: make([]byte, 256)}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(batch) {
		if _, errs := s.SignAll(b.Context(), batch); errs != nil {
			b.Fatal(errs)
		}
	}
}

// BenchmarkVerifyBatch is the cost of one message of batches of 256.
func BenchmarkVerifyBatch(b *testing.B) {
	c := newClock()
	s := newSigner(alice, c)
	var frames [][]byte
	for range 16 {
		batch := make([]message.Draft, 256)
		for i := range batch {
			batch[i] = message.Draft{To: bob.ID(), Body: make([]byte, 256)}
		}
		signed, _ := s.SignAll(b.Context(), batch)
		for _, m := range signed {
			frames = append(frames, m.Raw())
		}
	}
	v, next := newVerifier(bob, c), 0
	b.ReportAllocs()
	for b.Loop() {
		if next == len(frames) {
			v, next = newVerifier(bob, c), 0
		}
		if _, err := v.Verify(frames[next]); err != nil {
			b.Fatal(err)
		}
		next++
	}
}

// BenchmarkVerifyForgedUnknownSender is what a stranger's frame costs. The bar is 2 µs.
func BenchmarkVerifyForgedUnknownSender(b *testing.B) {
	c := newClock()
	raw := newEnvelope(noon, direct(bob)).from(mallory).raw()
	benchRefusal(b, newVerifier(bob, c), raw, message.ErrUnknownSender)
}

func BenchmarkVerifyReplayed(b *testing.B) {
	c := newClock()
	raw := benchFrames(b, c, 1)[0]
	v := newVerifier(bob, c)
	accepts(b, v, raw, "the first time")
	benchRefusal(b, v, raw, message.ErrReplayed)
}

// BenchmarkVerifyForgedKnownSender is the dearest refusal: only the signature tells.
func BenchmarkVerifyForgedKnownSender(b *testing.B) {
	e := newEnvelope(noon, direct(bob))
	e.signer = mallory
	benchRefusal(b, newVerifier(bob, newClock()), e.raw(), message.ErrBadSignature)
}

func benchRefusal(b *testing.B, v *message.Verifier, raw []byte, want message.Reason) {
	b.Helper()
	refuses(b, v, raw, want, "the frame to measure")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(raw); err == nil {
			b.Fatal("accepted")
		}
	}
}
