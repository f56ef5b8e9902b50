package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
)

// TestCloseThatCannotWriteLosesNoSafety closes marks on stores that fail at one write or another.
func TestCloseThatCannotWriteLosesNoSafety(t *testing.T) {
	for failAt := range 5 {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("write=%d,after=%t", failAt, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &tampered{Store: newStore(t)}
					l := starts(t, s)
					var captured [][]byte
					for i, id := range []*identity.Identity{alice, carol} {
						for _, ahead := range []time.Duration{0, 10 * time.Second} {
							time.Sleep(time.Millisecond)
							captured = append(captured, toBob(t, sessionOf(id, ahead*time.Duration(i))))
							accepts(t, l.Verifier, captured[len(captured)-1], "a message")
						}
					}
					var count atomic.Int64
					s.tamper(func(_ context.Context, _, _ string, do func() error) error {
						if int(count.Add(1))-1 != failAt {
							return do()
						}
						if after {
							do()
						}
						return errors.New("not now")
					})
					err := l.marks.Close(t.Context())
					if failed := failAt < 3; failed != (err != nil) {
						t.Errorf("Close = %v", err)
					}
					if err != nil && !strings.Contains(err.Error(), "close replay marks of agent "+bob.ID().Short()) {
						t.Errorf("%v", err)
					}
					s.tamper(nil)
					next := starts(t, s)
					refusesAll(t, next.Verifier, captured, "after the restart")
					time.Sleep(2 * time.Minute)
					accepts(t, next.Verifier, toBob(t, sessionOf(carol, 0)), "a fresh one")
				})
			})
		}
	}
}

// TestCloseEndsWithItsContext closes marks on a store that hangs.
func TestCloseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tampered{Store: newStore(t)}
		l := starts(t, s)
		raw := toBob(t, sessionOf(alice, 0))
		accepts(t, l.Verifier, raw, "a message")
		s.tamper(slow(s.Store, time.Hour).change)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		began := time.Now()
		if err := l.marks.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close = %v", err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
		refusesAll(t, starts(t, s.Store).Verifier, [][]byte{raw}, "after the restart")
	})
}

// TestCloseReleasesThoseWhoWait has nobody wait for marks that are closed.
func TestCloseReleasesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tampered{Store: newStore(t)}
		l := starts(t, s)
		s.tamper(func(ctx context.Context, _, _ string, do func() error) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
				return do()
			}
		})
		refused := make(chan error)
		raw := toBob(t, sessionOf(alice, 0))
		go func() {
			_, err := l.Verify(raw)
			refused <- err
		}()
		synctest.Wait()
		began := time.Now()
		go l.marks.Close(t.Context())
		if err := <-refused; !errors.Is(err, message.ErrNoMarks) || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		l.stop(t)
	})
}

func TestLifeOfMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, raw := newStore(t), toBob(t, sessionOf(alice, 0))
		marks := must(message.NewMarks(message.MarksConfig{Store: s, Network: network, Agent: bob.ID(), Logger: quiet}))
		if err := marks.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "VerifierConfig.Marks") {
			t.Errorf("Open without a Verifier = %v", err)
		}
		for name, config := range map[string]message.VerifierConfig{
			"another agent":   {Self: carol.ID(), Network: network, Keys: registryOf(alice), Marks: marks},
			"another network": {Self: bob.ID(), Network: "other", Keys: registryOf(alice), Marks: marks},
		} {
			if _, err := message.NewVerifier(config); err == nil || !strings.Contains(err.Error(), "VerifierConfig.Marks") {
				t.Errorf("%s: %v", name, err)
			}
		}
		v := configured(message.VerifierConfig{Marks: marks})
		if _, err := message.NewVerifier(message.VerifierConfig{Self: bob.ID(), Network: network, Keys: registryOf(alice), Marks: marks}); err == nil {
			t.Error("marks serve two verifiers")
		}
		refuses(t, v, raw, message.ErrNoMarks, "before Open")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := marks.Open(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("Open without time = %v", err)
		}
		if err := marks.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := marks.Open(t.Context()); err == nil {
			t.Error("opened twice")
		}
		time.Sleep(time.Millisecond)
		accepts(t, v, toBob(t, sessionOf(alice, 0)), "after Open")
		var closing sync.WaitGroup
		for range 10 {
			closing.Go(func() {
				if err := marks.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		closing.Wait()
		if err := marks.Open(t.Context()); err == nil {
			t.Error("opened after Close")
		}
		refuses(t, v, raw, message.ErrNoMarks, "after Close")

		unused := born(t, s, message.MarksConfig{})
		unused.stop(t)
		if err := unused.marks.Open(t.Context()); err == nil {
			t.Error("opened after Close")
		}
	})
}

// TestOpenFailsWithTheStore leaves the verifier refusing, and can be tried again.
func TestOpenFailsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no answer")
		s := &tampered{Store: newStore(t)}
		l := born(t, s, message.MarksConfig{})
		s.tamper(func(context.Context, string, string, func() error) error { return broken })
		if err := l.marks.Open(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Open = %v", err)
		}
		s.tamper(nil)
		s.list = func() error { return broken }
		if err := l.marks.Open(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Open = %v", err)
		}
		raw := toBob(t, sessionOf(alice, 0))
		refuses(t, l.Verifier, raw, message.ErrNoMarks, "not open")
		s.list = nil
		if err := l.marks.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		accepts(t, l.Verifier, toBob(t, sessionOf(alice, 0)), "at last")
		l.stop(t)
	})
}

// TestOpenAfterCrashWaitsUntilItsCeilingHasPassed has an agent that starts at once after a crash begin
// when what it hears counts.
func TestOpenAfterCrashWaitsUntilItsCeilingHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		raw := toBob(t, sessionOf(alice, 0))
		accepts(t, starts(t, s).Verifier, raw, "before the crash")
		began, s := time.Now(), copyOf(t, s)
		l := starts(t, s)
		if waited := time.Since(began); waited > message.DefaultMarksAhead+time.Second {
			t.Errorf("it waited for %v", waited)
		}
		accepts(t, l.Verifier, toBob(t, sessionOf(alice, 0)), "right after the start")
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := born(t, copyOf(t, s), message.MarksConfig{}).marks.Open(gone); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open = %v", err)
		}
	})
}

func TestMarksConfigIsChecked(t *testing.T) {
	s := newStore(t)
	for field, c := range map[string]message.MarksConfig{
		"Store":   {Network: network, Agent: bob.ID()},
		"Agent":   {Store: s, Network: network},
		"Network": {Store: s, Agent: bob.ID(), Network: "No Network"},
		"Ahead":   {Store: s, Agent: bob.ID(), Network: network, Ahead: time.Hour},
		"Wait":    {Store: s, Agent: bob.ID(), Network: network, Wait: -1},
		"MaxAge":  {Store: s, Agent: bob.ID(), Network: network, MaxAge: -1},
	} {
		if _, err := message.NewMarks(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestConcurrentVerificationsWithMarks verifies each message several times at once, while the marks are
// closed at some moment, and then once more after a restart.
func TestConcurrentVerificationsWithMarks(t *testing.T) {
	for range stopsAmid {
		s := must(memory.New(memory.Config{}))
		first := born(t, s, message.MarksConfig{})
		if err := first.marks.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		session := sessionOf(alice, 0)
		const n = 200
		frames := make([][]byte, n)
		for i := range frames {
			frames[i] = toBob(t, session)
		}
		var accepted [n]atomic.Int64
		var verifying sync.WaitGroup
		for worker := range 4 {
			verifying.Go(func() {
				for i, raw := range frames {
					if _, err := first.Verify(bytes.Clone(raw)); err == nil {
						accepted[i].Add(1)
					}
					if worker == 0 && i == n/2 {
						if err := first.marks.Close(t.Context()); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		verifying.Wait()
		second := startsWith(t, s, message.MarksConfig{})
		for i, raw := range frames {
			if _, err := second.Verify(bytes.Clone(raw)); err == nil {
				accepted[i].Add(1)
			}
			if count := accepted[i].Load(); count != 1 {
				t.Errorf("message %d is accepted %d times", i, count)
			}
		}
	}
}
