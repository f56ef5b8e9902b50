package message_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReplayAfterCrashIsDropped kills a receiver after each message, and replays all that it accepted to
// the next one: at once, and after that one has accepted others.
func TestReplayAfterCrashIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		var captured [][]byte
		running := sessionOf(alice, 0)
		for range 20 {
			bobs := starts(t, s)
			refusesAll(t, bobs.Verifier, captured, "after the crash")
			for _, session := range []*message.Signer{running, sessionOf(alice, 0)} {
				time.Sleep(time.Millisecond)
				raw := toBob(t, session)
				accepts(t, bobs.Verifier, raw, "a fresh message")
				captured = append(captured, raw)
			}
			refusesAll(t, bobs.Verifier, captured, "after others")
			s = copyOf(t, s)
		}
	})
}

// TestMessagesIssuedWhileTheReceiverWasDownAreAccepted holds messages back as a durable broker does.
func TestMessagesIssuedWhileTheReceiverWasDownAreAccepted(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%t", graceful), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				first, running := starts(t, s), sessionOf(alice, 0)
				accepts(t, first.Verifier, toBob(t, running), "before")
				if graceful {
					first.stop(t)
				} else {
					s = copyOf(t, s)
					time.Sleep(message.DefaultMarksAhead)
				}
				var waiting [][]byte
				for _, session := range []*message.Signer{running, sessionOf(alice, 0), sessionOf(carol, 0)} {
					for range 3 {
						time.Sleep(time.Millisecond)
						waiting = append(waiting, toBob(t, session))
					}
				}
				time.Sleep(4 * time.Minute)
				second := starts(t, s)
				for i, raw := range waiting {
					accepts(t, second.Verifier, raw, fmt.Sprint("issued while it was down, ", i))
				}
				refusesAll(t, second.Verifier, waiting, "once more")
				if n := second.warnings(); n != 0 {
					t.Errorf("%d warnings: %s", n, &second.log.text)
				}
			})
		})
	}
}

// TestGracefulStopLosesNothing stops a receiver while messages of its senders are under way, out of order:
// those that it has not accepted are accepted by the next, the others are not.
func TestGracefulStopLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		time.Sleep(time.Minute)
		var accepted, underWay [][]byte
		for _, session := range []*message.Signer{
			sessionOf(alice, 0), sessionOf(alice, 0), sessionOf(carol, 20*time.Second), sessionOf(carol, 21*time.Second),
		} {
			for i := range 100 {
				time.Sleep(time.Millisecond)
				raw := toBob(t, session)
				if i%3 == 1 {
					underWay = append(underWay, raw)
					continue
				}
				accepts(t, first.Verifier, raw, "before the stop")
				accepted = append(accepted, raw)
			}
		}
		first.stop(t)
		refuses(t, first.Verifier, underWay[0], message.ErrNoMarks, "after the stop")
		second := starts(t, s)
		refusesAll(t, second.Verifier, accepted, "after the stop")
		for i, raw := range underWay {
			accepts(t, second.Verifier, raw, fmt.Sprint("under way, ", i))
		}
		refusesAll(t, second.Verifier, append(accepted, underWay...), "once more")
		third := starts(t, copyOf(t, s))
		refusesAll(t, third.Verifier, append(accepted, underWay...), "after a crash on top")
	})
}

// TestSessionsGoOnAfterGracefulStop has the rules for sessions outlive the process.
func TestSessionsGoOnAfterGracefulStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		time.Sleep(time.Second)
		now := time.Now()
		accepts(t, first.Verifier, at(now, 1, 5000), "the newest")
		first.stop(t)
		second := starts(t, s)
		for behind := uint64(1); behind < window; behind += 100 {
			accepts(t, second.Verifier, at(now, 1, 5000-behind), "within the window")
		}
		refuses(t, second.Verifier, at(now, 1, 5000-window), message.ErrReplayed, "too far behind")
		refuses(t, second.Verifier, at(now, 2, 1), message.ErrStaleSession, "a session that is not newer")
		accepts(t, second.Verifier, at(now.Add(time.Millisecond), 2, 1), "a newer session")
		for session := uint64(3); session <= 16; session++ {
			accepts(t, second.Verifier, at(now.Add(time.Duration(session)*time.Millisecond), session, 1), "more sessions")
		}
		second.stop(t)
		third := starts(t, s)
		refuses(t, third.Verifier, at(now.Add(time.Second), 17, 1), message.ErrTooManySessions, "one too many")
	})
}

// TestStopWithoutMessagesWritesNothing keeps idle agents from costing writes.
func TestStopWithoutMessagesWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		raw := toBob(t, sessionOf(alice, 0))
		accepts(t, first.Verifier, raw, "a message")
		first.stop(t)
		for range 3 {
			idle := starts(t, s)
			refusesAll(t, idle.Verifier, [][]byte{raw}, "at a receiver that is else idle")
			time.Sleep(time.Second)
			idle.stop(t)
			if n := idle.marks.Stats().Writes; n != 1 { // the claim
				t.Errorf("%d writes", n)
			}
			time.Sleep(time.Second)
			accepts(t, starts(t, copyOf(t, s)).Verifier, toBob(t, sessionOf(alice, 0)), "issued while it was down")
		}
	})
}

// TestIdleMarksAreRenewedAtTheEnd keeps the marks of an agent that heard nothing for a day from counting
// as old.
func TestIdleMarksAreRenewedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		time.Sleep(message.DefaultMarksMaxAge + time.Hour)
		first.stop(t)
		raw := toBob(t, sessionOf(alice, 0))
		time.Sleep(time.Second)
		second := starts(t, s)
		accepts(t, second.Verifier, raw, "issued while it was down")
		if second.warnings() != 0 {
			t.Errorf("%s", &second.log.text)
		}
	})
}

// TestLostMarks has marks of all sorts that say nothing. What was issued before the start is refused, what
// is issued after it is accepted, and there is one warning.
func TestLostMarks(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, s store.Store){
		"deleted": func(t *testing.T, s store.Store) {
			for _, key := range keysOf(t, s) {
				overwrite(t, s, key, nil)
			}
		},
		"ceiling deleted":  func(t *testing.T, s store.Store) { overwrite(t, s, ceilingKey(), nil) },
		"ceiling emptied":  func(t *testing.T, s store.Store) { overwrite(t, s, ceilingKey(), []byte{}) },
		"ceiling is noise": func(t *testing.T, s store.Store) { overwrite(t, s, ceilingKey(), []byte("noise")) },
		"ceiling is huge":  func(t *testing.T, s store.Store) { overwrite(t, s, ceilingKey(), make([]byte, 1<<20)) },
		"ceiling truncated": func(t *testing.T, s store.Store) {
			alter(t, s, ceilingKey(), func(b []byte) []byte { return b[:len(b)-1] })
		},
		"ceiling continued": func(t *testing.T, s store.Store) {
			alter(t, s, ceilingKey(), func(b []byte) []byte { return append(b, 0) })
		},
		"ceiling is a sender's": func(t *testing.T, s store.Store) {
			overwrite(t, s, ceilingKey(), must(s.Get(t.Context(), markKey(alice))).Value)
		},
		"another agent's": func(t *testing.T, s store.Store) {
			foreign(t, s, carol.ID(), network)
		},
		"too old": func(*testing.T, store.Store) { time.Sleep(message.DefaultMarksMaxAge) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				first, running := starts(t, s), sessionOf(alice, 0)
				accepts(t, first.Verifier, toBob(t, running), "before")
				first.stop(t)
				lose(t, s)
				time.Sleep(time.Minute)
				before := [][]byte{toBob(t, running), toBob(t, sessionOf(alice, 0)), toBob(t, sessionOf(carol, 0))}
				time.Sleep(time.Millisecond)
				second := starts(t, s)
				for i, raw := range before {
					if _, err := second.Verify(bytes.Clone(raw)); !errors.Is(err, message.ErrStaleSession) && !errors.Is(err, message.ErrReplayed) {
						t.Errorf("message %d, issued before the start: %v", i, err)
					}
				}
				accepts(t, second.Verifier, toBob(t, running), "issued after it")
				accepts(t, second.Verifier, toBob(t, sessionOf(carol, 0)), "issued after it, new session")
				if n := second.warnings(); n != 1 {
					t.Errorf("%d warnings: %s", n, &second.log.text)
				}
				second.stop(t)
				third := starts(t, s)
				refusesAll(t, third.Verifier, before, "after another restart")
				if n := third.warnings(); n != 0 {
					t.Errorf("%d warnings at the next start: %s", n, &third.log.text)
				}
			})
		})
	}
}

func alter(t testing.TB, s store.Store, key string, change func([]byte) []byte) {
	t.Helper()
	overwrite(t, s, key, change(must(s.Get(t.Context(), key)).Value))
}

// foreign gives Bob the marks of another agent.
func foreign(t testing.TB, s store.Store, agent identity.ID, network string) {
	t.Helper()
	other := startsWith(t, s, message.MarksConfig{Agent: agent})
	time.Sleep(time.Millisecond)
	accepts(t, other.Verifier, sign(t, sessionOf(alice, 0), message.Draft{To: agent}), "to the other agent")
	other.stop(t)
	for _, name := range []string{"ceiling", alice.ID().String()} {
		stolen := must(s.Get(t.Context(), store.Key("replay", network, agent.String(), name)))
		overwrite(t, s, store.Key("replay", network, bob.ID().String(), name), stolen.Value)
	}
}

// TestCorruptMarkConcernsItsSenderOnly damages what is known of Alice.
func TestCorruptMarkConcernsItsSenderOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		alices, carols := sessionOf(alice, 0), sessionOf(carol, 0)
		time.Sleep(time.Second)
		accepted := [][]byte{toBob(t, alices), toBob(t, carols)}
		for _, raw := range accepted {
			accepts(t, first.Verifier, raw, "before")
		}
		first.stop(t)
		alter(t, s, markKey(alice), func(b []byte) []byte { b[len(b)-1] ^= 1; return b[:len(b)-1] })
		overwrite(t, s, store.Key("replay", network, bob.ID().String(), "stray"), []byte("not a mark"))
		time.Sleep(time.Second)
		fromAlice, fromCarol := toBob(t, alices), toBob(t, carols)
		time.Sleep(time.Second)
		second := starts(t, s)
		refusesAll(t, second.Verifier, accepted, "after the restart")
		refuses(t, second.Verifier, fromAlice, message.ErrStaleSession, "issued before the start")
		accepts(t, second.Verifier, fromCarol, "of another sender")
		accepts(t, second.Verifier, toBob(t, alices), "issued after it")
		if n := second.warnings(); n != 1 || second.log.count("senders=1") != 1 {
			t.Errorf("%d warnings: %s", n, &second.log.text)
		}
		second.stop(t)
		third := starts(t, s)
		refusesAll(t, third.Verifier, append(accepted, fromAlice, fromCarol), "after another restart")
		if n := third.warnings(); n != 0 {
			t.Errorf("%d warnings: %s", n, &third.log.text)
		}
	})
}

// TestMarksOfNewerVersionAreLeftAlone refuses to start on them, and changes nothing.
func TestMarksOfNewerVersionAreLeftAlone(t *testing.T) {
	for _, key := range []string{ceilingKey(), markKey(alice)} {
		s := newStore(t)
		newer := []byte{0x82, 0x02, 0x41, 0x00} // [2, h'00']
		overwrite(t, s, key, newer)
		l := born(t, s, message.MarksConfig{})
		for range 2 {
			err := l.marks.Open(t.Context())
			if !errors.Is(err, message.ErrMarksVersion) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "upgrade") {
				t.Fatalf("Open = %v", err)
			}
		}
		refuses(t, l.Verifier, toBob(t, sessionOf(alice, 0)), message.ErrNoMarks, "not open")
		if value := must(s.Get(t.Context(), key)).Value; !bytes.Equal(value, newer) {
			t.Errorf("%s is now %x", key, value)
		}
	}
}

// TestClockSetBackBetweenRunsReopensNothing restarts a receiver an hour earlier than it stopped.
func TestClockSetBackBetweenRunsReopensNothing(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%t", graceful), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				var back atomic.Int64
				now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
				session := func(id *identity.Identity) *message.Signer {
					return must(message.NewSigner(message.SignerConfig{Identity: id, Network: network, Now: now}))
				}
				first := startsWith(t, s, message.MarksConfig{Now: now})
				running := session(alice)
				time.Sleep(time.Hour)
				var captured [][]byte
				for range 10 {
					captured = append(captured, toBob(t, running))
					accepts(t, first.Verifier, captured[len(captured)-1], "before")
					time.Sleep(time.Minute)
				}
				if graceful {
					first.stop(t)
				} else {
					s = copyOf(t, s)
				}
				back.Store(int64(time.Hour))
				second := startsWith(t, s, message.MarksConfig{Now: now})
				if graceful {
					raw := toBob(t, running)
					accepts(t, second.Verifier, raw, "the session goes on")
					captured = append(captured, raw)
				} else if second.log.count("set back") != 1 {
					t.Errorf("no word of the clock: %s", &second.log.text)
				}
				for range 70 { // until all have been fresh again
					refusesAll(t, second.Verifier, captured, "with the clock set back")
					time.Sleep(time.Minute)
				}
				accepts(t, second.Verifier, toBob(t, session(alice)), "when time has caught up")
			})
		})
	}
}

// TestForgottenSendersStayForgottenAfterRestart stops a receiver when Alice has been silent for so long that
// she is left out, and sets the clock back to when her message was fresh.
func TestForgottenSendersStayForgottenAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStore(t), newClock()
		first := startsWith(t, s, message.MarksConfig{Now: clock.Now})
		captured := at(noon, 1, 1)
		accepts(t, first.Verifier, captured, "Alice's")
		clock.Add(lifetime + time.Second)
		accepts(t, first.Verifier, newEnvelope(clock.Now(), direct(bob)).from(carol).raw(), "Carol's")
		first.stop(t)
		if _, err := s.Get(t.Context(), markKey(alice)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Alice's mark: %v", err)
		}
		clock.Set(noon)
		second := startsWith(t, s, message.MarksConfig{Now: clock.Now})
		refuses(t, second.Verifier, captured, message.ErrStaleSession, "fresh again")
	})
}

// TestSenderWhoseClockIsSetBackIsNotReplayed has Carol's clock be ahead in one life of the receiver and right
// in the next, which crashes: what is known of her from the first says nothing of the second.
func TestSenderWhoseClockIsSetBackIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		first := starts(t, s)
		ahead := 25 * time.Second
		carols := must(message.NewSigner(message.SignerConfig{
			Identity: carol, Network: network, Now: func() time.Time { return time.Now().Add(ahead) },
		}))
		captured := [][]byte{toBob(t, carols)}
		accepts(t, first.Verifier, captured[0], "from ahead")
		first.stop(t)
		second := starts(t, s)
		ahead = 0
		time.Sleep(time.Second)
		captured = append(captured, toBob(t, carols))
		accepts(t, second.Verifier, captured[1], "on time, in the session that is known")
		refusesAll(t, starts(t, copyOf(t, s)).Verifier, captured, "after a crash")
	})
}

// TestOwnCeilingForbidsWhatItReplaces sets all clocks back by an hour between two lives. In the second, Carol,
// whose clock is ahead of the others, gets a ceiling in place of her exact mark.
func TestOwnCeilingForbidsWhatItReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStore(t), newClock()
		clock.Add(-2 * time.Hour) // or what is earlier than noon would be older than the receiver
		first := startsWith(t, s, message.MarksConfig{Now: clock.Now})
		clock.Set(noon)
		captured := newEnvelope(noon, direct(bob)).from(carol).numbered(1, 10).raw()
		accepts(t, first.Verifier, captured, "at noon")
		first.stop(t)
		clock.Set(noon.Add(-time.Hour))
		second := startsWith(t, s, message.MarksConfig{Now: clock.Now})
		again := newEnvelope(clock.Now().Add(10*time.Second), direct(bob)).from(carol).numbered(1, 11).raw()
		accepts(t, second.Verifier, again, "the session goes on an hour earlier")
		third := startsWith(t, copyOf(t, s), message.MarksConfig{Now: clock.Now})
		refusesAll(t, third.Verifier, [][]byte{again}, "after a crash")
		clock.Set(noon)
		refusesAll(t, third.Verifier, [][]byte{captured}, "when it is noon once more")
	})
}

// TestFewWrites counts what messages cost the store: a bounded number of writes a second, and of waits next
// to none, whatever the rate.
func TestFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		l := starts(t, slow(s, 100*time.Millisecond))
		alices, carols := sessionOf(alice, 0), sessionOf(carol, 10*time.Second)
		const seconds, rate = 30, trafficRate
		for range seconds * rate {
			time.Sleep(time.Second / rate)
			accepts(t, l.Verifier, toBob(t, alices), "Alice's")
			accepts(t, l.Verifier, toBob(t, carols), "Carol's, whose clock is ahead")
		}
		stats := l.marks.Stats()
		if stats.Writes > seconds || stats.Waits > 2 || stats.Failed > 0 {
			t.Errorf("%d messages: %+v", 2*seconds*rate, stats)
		}
		l.stop(t)
	})
}

// TestBacklogCostsFewWrites works off a backlog of four minutes in no time. The ceiling stays near what was
// accepted: what waits further back in the backlog is not lost with a crash.
func TestBacklogCostsFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		starts(t, s).stop(t)
		var backlog [][]byte
		session := sessionOf(alice, 0)
		const half = 120 * backlogRate
		for range 2 * half {
			time.Sleep(time.Second / backlogRate)
			backlog = append(backlog, toBob(t, session))
		}
		l := starts(t, s)
		for _, raw := range backlog[:half] {
			accepts(t, l.Verifier, raw, "the first half")
		}
		if n := l.marks.Stats().Writes; n > 12 {
			t.Errorf("%d writes", n)
		}
		next := starts(t, copyOf(t, s))
		refusesAll(t, next.Verifier, backlog[:half], "the first half, after a crash")
		lost := 0
		for _, raw := range backlog[half:] {
			if _, err := next.Verify(bytes.Clone(raw)); err != nil {
				lost++
			}
		}
		if lost > 32*backlogRate { // 16 steps of 2 s
			t.Errorf("%d of the other half are lost", lost)
		}
		for _, raw := range backlog[half:] {
			accepts(t, l.Verifier, raw, "the other half")
		}
		fresh := starts(t, copyOf(t, s))
		accepts(t, fresh.Verifier, toBob(t, sessionOf(carol, 0)), "after the whole backlog and a crash")
	})
}
