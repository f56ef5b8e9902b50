package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// TestMessageWaitsUntilItsCeilingIsDurable holds a write back: what it is to cover is not accepted before
// it has happened.
func TestMessageWaitsUntilItsCeilingIsDurable(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"clock on time": 0, "clock ahead": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, gate := &tampered{Store: newStore(t)}, make(chan struct{})
				l := starts(t, s)
				s.tamper(func(_ context.Context, _, _ string, do func() error) error {
					<-gate
					return do()
				})
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
				s.tamper(change)
				for range 3 {
					time.Sleep(message.DefaultMarksAhead / 4)
					accepted = append(accepted, toBob(t, session))
					accepts(t, l.Verifier, accepted[len(accepted)-1], "up to the ceiling")
				}
				time.Sleep(message.DefaultMarksAhead)
				began := time.Now()
				for range refusedOnes {
					refuses(t, l.Verifier, toBob(t, session), message.ErrNoMarks, "beyond it")
				}
				if waited := time.Since(began); waited > message.DefaultMarksWait {
					t.Errorf("%d refusals took %v", refusedOnes, waited)
				}
				if n := l.Refused()["marks_unavailable"]; n != refusedOnes {
					t.Errorf("%d refusals are counted", n)
				}
				refusesAll(t, starts(t, copyOf(t, s.Store)).Verifier, accepted, "after a crash meanwhile")
				time.Sleep(10 * time.Minute)
				if n := l.warnings(); n < 1 || n > 12 {
					t.Errorf("%d warnings in ten minutes: %s", n, &l.log.text)
				}
				if l.marks.Err() == nil {
					t.Error("no error to show")
				}
				s.tamper(nil)
				time.Sleep(10 * time.Second) // until the next attempt
				accepts(t, l.Verifier, toBob(t, session), "when it works again")
				if err := l.marks.Err(); err != nil {
					t.Errorf("still %v", err)
				}
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
		for range steadyOnes {
			time.Sleep(10 * time.Second / steadyOnes)
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
		s.tamper(func(_ context.Context, _, key string, do func() error) error {
			if key == markKey(carol) {
				return store.ErrFull
			}
			return do()
		})
		accepts(t, l.Verifier, toBob(t, alices), "Alice's first")
		refuses(t, l.Verifier, toBob(t, carols), message.ErrNoMarks, "Carol's first")
		for range heldUp {
			time.Sleep(10 * time.Second / heldUp)
			began := time.Now()
			accepts(t, l.Verifier, toBob(t, alices), "Alice's")
			refuses(t, l.Verifier, toBob(t, carols), message.ErrNoMarks, "Carol's")
			if waited := time.Since(began); waited > 0 {
				t.Fatalf("Alice waited for %v", waited)
			}
		}
		s.tamper(nil)
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
		for range takenOver {
			time.Sleep(20 * time.Second / takenOver)
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
		if len(seen) < 2*takenOver*3/4 {
			t.Errorf("only %d of %d messages are accepted", len(seen), 2*takenOver)
		}
		refuses(t, first.Verifier, toBob(t, alices), message.ErrNoMarks, "the first process")
		accepts(t, second.Verifier, toBob(t, alices), "the second process")
		if n := first.log.count("level=ERROR"); n != 1 {
			t.Errorf("%d errors: %s", n, &first.log.text)
		}
		if err := first.marks.Err(); !errors.Is(err, message.ErrMarksTaken) {
			t.Errorf("Err = %v", err)
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
		late.tamper(func(_ context.Context, _, _ string, do func() error) error {
			<-gate
			return do()
		})
		go first.Verify(toBob(t, sessionOf(carol, 3*time.Second)))
		synctest.Wait()
		second := starts(t, s)
		time.Sleep(4 * time.Second)
		var captured [][]byte
		for _, ahead := range []time.Duration{0, 10 * time.Second, 30 * time.Second} {
			captured = append(captured, toBob(t, sessionOf(carol, ahead)))
			accepts(t, second.Verifier, captured[len(captured)-1], "the second process")
		}
		close(gate)
		synctest.Wait()
		if first.log.count("level=ERROR") != 1 {
			t.Errorf("the first process has not noticed: %s", &first.log.text)
		}
		refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
		time.Sleep(time.Second)
		accepts(t, second.Verifier, toBob(t, sessionOf(alice, 0)), "the second process goes on")
	})
}

// TestStoreThatForgetsUnderARunningAgent deletes all marks. The agent notices at its next write, accepts
// nothing until there is a ceiling for all that it has accepted, and goes on.
func TestStoreThatForgetsUnderARunningAgent(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%t", graceful), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &tampered{Store: newStore(t)}
				l, alices, carols := starts(t, s), sessionOf(alice, 0), sessionOf(carol, 20*time.Second)
				captured := [][]byte{toBob(t, alices), toBob(t, carols)}
				for _, raw := range captured {
					accepts(t, l.Verifier, raw, "before")
				}
				for _, key := range keysOf(t, s) {
					overwrite(t, s, key, nil)
				}
				if graceful {
					l.stop(t)
					refusesAll(t, starts(t, s).Verifier, captured, "after a restart")
					return
				}
				s.tamper(func(_ context.Context, _, _ string, do func() error) error {
					if err := do(); err != nil { // the conflict by which it notices
						return err
					}
					return errors.New("the disk is full of holes")
				})
				time.Sleep(message.DefaultMarksAhead * 4 / 5)
				captured = append(captured, toBob(t, alices))
				accepts(t, l.Verifier, captured[2], "up to the ceiling, before it notices")
				synctest.Wait()
				refuses(t, l.Verifier, toBob(t, alices), message.ErrNoMarks, "up to the ceiling that is gone")
				s.tamper(nil)
				time.Sleep(5 * time.Second)
				captured = append(captured, toBob(t, alices))
				accepts(t, l.Verifier, captured[3], "when it is there again")
				refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
			})
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
