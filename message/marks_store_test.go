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
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

// TestMessageWaitsUntilItsCeilingIsDurable holds a write back: what it is to cover is not accepted before
// it has happened.
func TestMessageWaitsUntilItsCeilingIsDurable(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"clock on time": 0, "clock ahead": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, gate := &tampered{Store: newStore(t)}, make(chan struct{})
				l := starts(t, s)
				s.change = func(_ context.Context, _, _ string, do func() error) error {
					<-gate
					return do()
				}
				raw := toBob(t, sessionOf(alice, ahead))
				accepted := make(chan error, 1)
				go func() {
					_, err := l.Verify(bytes.Clone(raw))
					accepted <- err
				}()
				synctest.Wait()
				select {
				case err := <-accepted:
					t.Fatalf("before the write: %v", err)
				default:
				}
				accepts(t, starts(t, copyOf(t, s.Store)).Verifier, raw, "had it crashed now")
				close(gate)
				if err := <-accepted; err != nil {
					t.Fatal(err)
				}
				refuses(t, starts(t, copyOf(t, s.Store)).Verifier, raw, message.ErrStaleSession, "had it crashed then")
			})
		})
	}
}

// TestStoreThatFailsHasMessagesRefused goes on up to the ceiling, refuses what is beyond with a reason of
// its own, without making others wait for long, and recovers by itself.
func TestStoreThatFailsHasMessagesRefused(t *testing.T) {
	broken := errors.New("disk on fire")
	hang := func(ctx context.Context, _, _ string, _ func() error) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for name, change := range map[string]func(context.Context, string, string, func() error) error{
		"error":                 func(context.Context, string, string, func() error) error { return broken },
		"error after the write": func(_ context.Context, _, _ string, do func() error) error { do(); return broken },
		"hanging":               hang,
		"full":                  func(context.Context, string, string, func() error) error { return store.ErrFull },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &tampered{Store: newStore(t)}
				l, session := starts(t, s), sessionOf(alice, 0)
				accepted := [][]byte{toBob(t, session)}
				accepts(t, l.Verifier, accepted[0], "while it works")
				s.change = change
				for range 3 {
					time.Sleep(message.DefaultMarksAhead / 4)
					accepted = append(accepted, toBob(t, session))
					accepts(t, l.Verifier, accepted[len(accepted)-1], "up to the ceiling")
				}
				time.Sleep(message.DefaultMarksAhead)
				began := time.Now()
				for range 1000 {
					refuses(t, l.Verifier, toBob(t, session), message.ErrNoMarks, "beyond it")
				}
				if waited := time.Since(began); waited > message.DefaultMarksWait {
					t.Errorf("1,000 refusals took %v", waited)
				}
				if n := l.Refused()["marks_unavailable"]; n != 1000 {
					t.Errorf("%d refusals are counted", n)
				}
				refusesAll(t, starts(t, copyOf(t, s.Store)).Verifier, accepted, "after a crash meanwhile")
				time.Sleep(10 * time.Minute)
				if n := l.warnings(); n < 1 || n > 12 {
					t.Errorf("%d warnings in ten minutes: %s", n, &l.log.text)
				}
				s.change = nil
				time.Sleep(10 * time.Second) // until the next attempt
				accepts(t, l.Verifier, toBob(t, session), "when it works again")
				l.stop(t)
			})
		})
	}
}

// TestStoreThatIsSlowDelaysNobody has each write take most of the time that there is for it.
func TestStoreThatIsSlowDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, session := starts(t, slow(newStore(t), message.DefaultMarksAhead/5)), sessionOf(alice, 0)
		accepts(t, l.Verifier, toBob(t, session), "the first")
		for range 10_000 {
			time.Sleep(time.Millisecond)
			began, raw := time.Now(), toBob(t, session)
			accepts(t, l.Verifier, raw, "a message")
			if waited := time.Since(began); waited > 0 {
				t.Fatalf("it waited for %v", waited)
			}
		}
	})
}

// TestSendersWithClocksAheadCannotHoldUpOthers has the store refuse what is written for a sender whose
// clock is ahead: it is refused, after one wait, and others notice nothing.
func TestSendersWithClocksAheadCannotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tampered{Store: newStore(t)}
		l, alices, carols := starts(t, s), sessionOf(alice, 0), sessionOf(carol, 10*time.Second)
		s.change = func(_ context.Context, _, key string, do func() error) error {
			if key == markKey(carol) {
				return store.ErrFull
			}
			return do()
		}
		accepts(t, l.Verifier, toBob(t, alices), "Alice's first")
		refuses(t, l.Verifier, toBob(t, carols), message.ErrNoMarks, "Carol's first")
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			began := time.Now()
			accepts(t, l.Verifier, toBob(t, alices), "Alice's")
			refuses(t, l.Verifier, toBob(t, carols), message.ErrNoMarks, "Carol's")
			if waited := time.Since(began); waited > 0 {
				t.Fatalf("Alice waited for %v", waited)
			}
		}
		s.change = nil
		time.Sleep(10 * time.Second)
		accepts(t, l.Verifier, toBob(t, carols), "Carol's, when there is room")
	})
}

// TestSenderWithClockAheadRaisesOnlyItsOwnCeiling crashes after a message from 25 seconds ahead: others
// are not shut out for it, and its own is not taken twice.
func TestSenderWithClockAheadRaisesOnlyItsOwnCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		l, carols := starts(t, s), sessionOf(carol, 25*time.Second)
		var captured [][]byte
		for range 100 {
			time.Sleep(time.Second)
			captured = append(captured, toBob(t, carols))
			accepts(t, l.Verifier, captured[len(captured)-1], "from ahead")
		}
		next := starts(t, copyOf(t, s))
		accepts(t, next.Verifier, toBob(t, sessionOf(alice, 0)), "Alice's, right after the crash")
		for range 80 {
			refusesAll(t, next.Verifier, captured, "after the crash")
			time.Sleep(time.Second)
		}
		accepts(t, next.Verifier, toBob(t, carols), "a minute later")
	})
}

// TestLaterProcessTakesTheMarksOver runs an agent twice on one store: the earlier process accepts nothing
// any more that the later one could accept, also while writes of it are under way, and changes nothing.
func TestLaterProcessTakesTheMarksOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first, alices, carols := starts(t, s), sessionOf(alice, 0), sessionOf(carol, 10*time.Second)
		var captured [][]byte
		offer := func(l *life, raw []byte) {
			captured = append(captured, raw)
			l.Verify(bytes.Clone(raw))
		}
		offer(first, toBob(t, alices))
		offer(first, toBob(t, carols))
		second := starts(t, s)
		seen := map[message.ID]bool{}
		for range 2000 {
			time.Sleep(10 * time.Millisecond)
			for _, raw := range [][]byte{toBob(t, alices), toBob(t, carols)} {
				for _, l := range []*life{first, second, first} {
					m, err := l.Verify(bytes.Clone(raw))
					if err == nil && seen[m.ID()] {
						t.Fatal("both have accepted it")
					}
					if err == nil {
						seen[m.ID()] = true
					}
				}
			}
		}
		if len(seen) < 2000 {
			t.Errorf("only %d of 4000 messages are accepted", len(seen))
		}
		refuses(t, first.Verifier, toBob(t, alices), message.ErrNoMarks, "the first process")
		accepts(t, second.Verifier, toBob(t, alices), "the second process")
		if n := first.log.count("level=ERROR"); n != 1 {
			t.Errorf("%d errors: %s", n, &first.log.text)
		}
		if err := first.marks.Close(t.Context()); !errors.Is(err, message.ErrMarksTaken) {
			t.Errorf("Close = %v", err)
		}
		refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
		second.stop(t)
		third := starts(t, s)
		refusesAll(t, third.Verifier, captured, "after a restart")
		if third.warnings() != 0 {
			t.Errorf("%s", &third.log.text)
		}
	})
}

// TestLateWriteOfEarlierProcessLowersNothing has the first process come to write what it had in mind after
// the second has taken over and gone further.
func TestLateWriteOfEarlierProcessLowersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		late, gate := &tampered{Store: s}, make(chan struct{})
		first := starts(t, late)
		late.change = func(_ context.Context, _, _ string, do func() error) error { // deaf to its context, too
			<-gate
			return do()
		}
		for _, ahead := range []time.Duration{0, 10 * time.Second} {
			raw := toBob(t, sessionOf(carol, ahead))
			go first.Verify(raw)
		}
		time.Sleep(time.Minute)
		second := starts(t, s)
		var captured [][]byte
		for _, ahead := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			raw := toBob(t, sessionOf(carol, ahead))
			accepts(t, second.Verifier, raw, "the second process")
			captured = append(captured, raw)
		}
		close(gate)
		time.Sleep(time.Minute)
		refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
		accepts(t, second.Verifier, toBob(t, sessionOf(alice, 0)), "the second process goes on")
	})
}

// TestStoreThatForgetsUnderARunningAgent deletes all marks. The agent writes them again, for all that it
// has accepted.
func TestStoreThatForgetsUnderARunningAgent(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			l, alices, carols := starts(t, s), sessionOf(alice, 0), sessionOf(carol, 20*time.Second)
			var captured [][]byte
			deliver := func() {
				for _, session := range []*message.Signer{alices, carols} {
					captured = append(captured, toBob(t, session))
					accepts(t, l.Verifier, captured[len(captured)-1], "a message")
				}
			}
			deliver()
			for _, key := range keysOf(t, s) {
				overwrite(t, s, key, nil)
			}
			if !graceful {
				time.Sleep(time.Minute)
				deliver()
				refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
			}
			l.stop(t)
			refusesAll(t, starts(t, s).Verifier, captured, "after a restart")
		})
	}
}

// TestMarksThatSayNothingAnyMoreAreRemoved has many senders come and go over many lives.
func TestMarksThatSayNothingAnyMoreAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		ids := make([]*identity.Identity, 100)
		for i := range ids {
			ids[i] = must(identity.FromSeed(bytes.Repeat([]byte{byte(100 + i)}, 32)))
		}
		everybody := registryOf(append(ids, alice)...)
		begin := func() *life {
			marks := must(message.NewMarks(message.MarksConfig{Store: s, Network: network, Agent: bob.ID(), Logger: quiet}))
			v := configured(message.VerifierConfig{Marks: marks, Keys: everybody})
			if err := marks.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			return &life{Verifier: v, marks: marks}
		}
		for range 3 {
			l := begin()
			for i, id := range ids {
				time.Sleep(time.Millisecond)
				accepts(t, l.Verifier, toBob(t, sessionOf(id, time.Duration(i%2)*10*time.Second)), "a sender")
			}
			l.stop(t)
			if n := len(keysOf(t, s)); n != 101 {
				t.Fatalf("%d keys", n)
			}
			time.Sleep(time.Minute)
		}
		l, session := begin(), sessionOf(alice, 0)
		for range 60 {
			time.Sleep(10 * time.Second)
			accepts(t, l.Verifier, toBob(t, session), "Alice's")
		}
		if keys := keysOf(t, s); len(keys) != 1 {
			t.Errorf("%d keys are left", len(keys))
		}
		l.stop(t)
		if keys := keysOf(t, s); len(keys) != 2 {
			t.Errorf("%d keys are left in the end", len(keys))
		}
	})
}

// TestMoreMarksThanSendersAreRemembered lowers the bound between two lives.
func TestMoreMarksThanSendersAreRemembered(t *testing.T) {
	for _, bound := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			dave, erin := agent(4), agent(5)
			begin := func(bound int) *life {
				marks := must(message.NewMarks(message.MarksConfig{Store: s, Network: network, Agent: bob.ID(), Logger: quiet}))
				v := configured(message.VerifierConfig{Marks: marks, Keys: registryOf(alice, carol, dave, erin), MaxSenders: bound})
				if err := marks.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				return &life{Verifier: v, marks: marks}
			}
			l := begin(0)
			var captured [][]byte
			for _, id := range []*identity.Identity{alice, carol, dave, erin} {
				time.Sleep(time.Second)
				captured = append(captured, toBob(t, sessionOf(id, 0)))
				accepts(t, l.Verifier, captured[len(captured)-1], "a sender")
			}
			l.stop(t)
			l = begin(bound)
			refusesAll(t, l.Verifier, captured, "with a lower bound")
			l.stop(t)
			l = begin(0)
			refusesAll(t, l.Verifier, captured, "with a higher bound again")
			time.Sleep(time.Second)
			accepts(t, l.Verifier, toBob(t, sessionOf(alice, 0)), "a fresh one")
			l.stop(t)
		})
	}
}

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
					s.change = func(_ context.Context, _, _ string, do func() error) error {
						if int(count.Add(1))-1 != failAt {
							return do()
						}
						if after {
							do()
						}
						return errors.New("not now")
					}
					err := l.marks.Close(t.Context())
					if failed := failAt < 3; failed != (err != nil) {
						t.Errorf("Close = %v", err)
					}
					if err != nil && !strings.Contains(err.Error(), "close replay marks of agent "+bob.ID().Short()) {
						t.Errorf("%v", err)
					}
					s.change = nil
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
		s.change = slow(s.Store, time.Hour).change
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
		s.change = func(ctx context.Context, _, _ string, do func() error) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
				return do()
			}
		}
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
		s.change = func(context.Context, string, string, func() error) error { return broken }
		if err := l.marks.Open(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Open = %v", err)
		}
		s.change, s.list = nil, func() error { return broken }
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
	for range 5 {
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
