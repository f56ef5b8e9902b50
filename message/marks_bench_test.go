package message_test

import (
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
)

// BenchmarkVerifyWithMarks is BenchmarkVerify with marks, for a sender on time and for one whose clock is
// ahead. The difference is what marks cost a message.
func BenchmarkVerifyWithMarks(b *testing.B) {
	for name, ahead := range map[string]time.Duration{"on-time": 0, "ahead": 10 * time.Second} {
		b.Run(name, func(b *testing.B) {
			c := newClock()
			frames := benchFrames(b, standing(noon.Add(ahead)), 4096)
			c.Add(-time.Hour)
			v, next := benchVerifier(b, c), 0
			c.Set(noon)
			b.ReportAllocs()
			for b.Loop() {
				if next == len(frames) { // or all would be replays
					b.StopTimer()
					c.Add(-time.Hour)
					v, next = benchVerifier(b, c), 0
					c.Set(noon)
					b.StartTimer()
				}
				if _, err := v.Verify(frames[next]); err != nil {
					b.Fatal(err)
				}
				next++
			}
		})
	}
}

func benchVerifier(b *testing.B, c *clock) *message.Verifier {
	marks := must(message.NewMarks(message.MarksConfig{
		Store: must(memory.New(memory.Config{})), Network: network, Agent: bob.ID(), Now: c.Now, Logger: quiet,
	}))
	v := configured(message.VerifierConfig{Marks: marks, Now: c.Now})
	if err := marks.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	return v
}

// TestMarksAllocateNothingPerMessage compares verification with and without marks.
func TestMarksAllocateNothingPerMessage(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"on time": 0, "ahead": 10 * time.Second} {
		clock := standing(noon.Add(-time.Hour))
		frames := make([][]byte, allocFrames)
		marks := must(message.NewMarks(message.MarksConfig{Store: newStore(t), Network: network, Agent: bob.ID(), Now: clock.Now, Logger: quiet}))
		with := configured(message.VerifierConfig{Marks: marks, Now: clock.Now})
		without := configured(message.VerifierConfig{Now: clock.Now})
		if err := marks.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		clock.Set(noon)
		s := newSigner(alice, standing(noon.Add(ahead)))
		for i := range frames {
			frames[i] = toBob(t, s)
		}
		accepts(t, with, frames[0], "the first, which waits for a write")
		accepts(t, without, frames[0], "the first")
		count := func(v *message.Verifier, frames [][]byte) float64 {
			next := 0
			return testing.AllocsPerRun(len(frames)-1, func() {
				if _, err := v.Verify(frames[next]); err != nil {
					t.Error(err)
				}
				next++
			})
		}
		if got, want := count(with, frames[1:]), count(without, frames[1:]); got != want {
			t.Errorf("%s: %v allocations a message, and without marks %v", name, got, want)
		}
		if err := marks.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// standing returns a clock that stands still.
func standing(now time.Time) *clock { return testkit.ClockAt(now) }
