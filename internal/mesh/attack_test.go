package mesh_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
)

// honest checks that alice and bob notice nothing of what happens to others.
func honest(t *testing.T, alice, bob *actor) {
	t.Helper()
	for i := range 10 {
		alice.mustSend(bob.route(), fmt.Sprint("to bob ", i))
		bob.expect(fmt.Sprint("to bob ", i))
		bob.mustSend(alice.route(), fmt.Sprint("to alice ", i))
		alice.expect(fmt.Sprint("to alice ", i))
	}
}

// trio is a duo, and a place for a puppet that says that it is mallory.
func trio(t *testing.T, c mesh.Config) (s *stage, alice, bob *actor) {
	t.Helper()
	s, alice, bob = duo(t, c)
	if err := bob.network.AddPeer(peer(t, "mallory", false)); err != nil {
		t.Fatal(err)
	}
	return s, alice, bob
}

func TestPeersThatBreakTheFormatAreDisconnected(t *testing.T) {
	long := strings.Repeat("x", 600)
	for name, c := range map[string]struct {
		says   []byte
		reason peertls.Reason
	}{
		"a huge prefix":             {[]byte{0xff, 0xff, 0xff, 0xff, data}, mesh.FrameTooLarge},
		"a frame over the limit":    {[]byte{0, 0x11, 0, 2, data}, mesh.FrameTooLarge},
		"an empty frame":            {[]byte{0, 0, 0, 0, data}, mesh.Malformed},
		"an unknown type":           {frame(9, ""), mesh.Malformed},
		"a second hello":            {greeting(0, 0), mesh.Malformed},
		"endless garbage":           {[]byte(strings.Repeat("garbage! ", 5000)), mesh.Malformed},
		"HTTP":                      {[]byte("GET / HTTP/1.1\r\n\r\n"), mesh.Malformed},
		"a short subscribe":         {frame(subscribe, "short"), mesh.Malformed},
		"a pattern that is none":    {frame(subscribe, number(1)+"a..b"), mesh.Malformed},
		"a pattern that is long":    {frame(subscribe, number(1)+long), mesh.FrameTooLarge},
		"an ack with more":          {frame(ack, number(1)+"x"), mesh.FrameTooLarge},
		"a ping with a payload":     {frame(ping, "x"), mesh.FrameTooLarge},
		"a frame that is cut off":   {frame(data, long)[:100], mesh.Stalled},
		"a prefix that is cut off":  {frame(data, long)[:3], mesh.Stalled},
		"more and more subscribing": {subscriptions(mesh.MaxPatterns + 1), mesh.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, alice, bob := trio(t, mesh.Config{})
				mallory := s.call(bob, "mallory")
				mallory.enter()
				go io.Copy(io.Discard, mallory) // acknowledgements
				go mallory.Write(c.says)        // may be cut short
				<-mallory.ended
				if got := bob.refused(c.reason); got != 1 {
					t.Errorf("%d refused as %s: %v", got, c.reason, bob.network.Stats().Refused)
				}
				if got := bob.lines("connection refused"); got != 1 {
					t.Errorf("%d lines in the log:\n%s", got, bob.log)
				}
				honest(t, alice, bob)
			})
		})
	}
}

func subscriptions(n int) (b []byte) {
	for i := range n {
		b = append(b, frame(subscribe, number(uint64(i+1))+fmt.Sprint("t", i))...)
	}
	return b
}

func TestConnectionsWithoutAProperHelloAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		says   []byte
		reason peertls.Reason
	}{
		"data first":           {frame(data, "hi"), mesh.Malformed},
		"another version":      {frame(hello, "\x02"+number(0)+number(0)), mesh.Malformed},
		"a hello that is cut":  {frame(hello, "\x01"), mesh.Malformed},
		"too many patterns":    {greeting(0, 0, manyPatterns(mesh.MaxPatterns+1)...), mesh.Malformed},
		"no hello":             {nil, peertls.Timeout},
		"half a hello, slowly": {greeting(0, 0)[:10], peertls.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, alice, bob := trio(t, mesh.Config{})
				mallory := s.call(bob, "mallory")
				go mallory.Write(c.says)
				mallory.expectEnd(6 * time.Second)
				if got := bob.refused(c.reason); got != 1 {
					t.Errorf("%d refused as %s: %v", got, c.reason, bob.network.Stats().Refused)
				}
				honest(t, alice, bob)
			})
		})
	}
}

func manyPatterns(n int) (patterns []string) {
	for i := range n {
		patterns = append(patterns, fmt.Sprint("t", i))
	}
	return patterns
}

func TestStrangersAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := duo(t, mesh.Config{})
		for range 5 {
			s.call(bob, "mallory").expectEnd(time.Second)
		}
		if got := bob.refused(peertls.UnknownPeer); got != 5 || bob.lines("connection refused") != 1 {
			t.Errorf("%d refused; the log:\n%s", got, bob.log)
		}
		honest(t, alice, bob)
	})
}

// TestOneByteEveryTenSecondsIsTooSlow: each byte is progress, but the frame is below the least rate.
func TestOneByteEveryTenSecondsIsTooSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		go io.Copy(io.Discard, mallory)
		begin := time.Now()
		for _, b := range frame(data, strings.Repeat("x", 600)) {
			if _, err := mallory.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(10 * time.Second)
		}
		<-mallory.ended
		if took := time.Since(begin); took > 21*time.Second || bob.refused(mesh.Stalled) != 1 {
			t.Errorf("after %s: %v", took, bob.network.Stats().Refused)
		}
		honest(t, alice, bob)
	})
}

func TestSlowButHonestFrameArrives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{MinRate: 1000})
		slow := s.call(bob, "mallory")
		slow.enter()
		go io.Copy(io.Discard, slow)
		body := strings.Repeat("x", 100_000) // 100 s at the least rate
		var writing sync.WaitGroup
		writing.Go(func() {
			for b := frame(data, body); len(b) > 0; b = b[min(len(b), 2000):] {
				slow.Write(b[:min(len(b), 2000)])
				time.Sleep(time.Second)
			}
		})
		bob.expect(body)
		writing.Wait()
	})
}

func TestSilentPeerIsDisconnectedAndPingsKeepOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{})
		opened := bob.network.Stats().Opened
		mallory := s.call(bob, "mallory")
		mallory.enter()
		mallory.expectEnd(46 * time.Second)
		time.Sleep(24 * time.Hour)
		if stats := bob.network.Stats(); stats.Refused["idle"] != 1 || stats.Opened != opened+1 || stats.Connections != 1 {
			t.Errorf("%+v", stats)
		}
		honest(t, alice, bob)
	})
}

// TestPeerThatNeverReadsIsDisconnected: it holds up what is for it, and only as long as allowed.
func TestPeerThatNeverReadsIsDisconnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{Queue: 10_000})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		var pinging sync.WaitGroup
		defer pinging.Wait()
		pinging.Go(func() { // it stays alive in the other direction
			for {
				if _, err := mallory.Write(frame(ping, "")); err != nil {
					return
				}
				time.Sleep(10 * time.Second)
			}
		})
		to := transport.Route{To: person(t, "mallory").ID()}
		var err error
		begin := time.Now()
		for err == nil {
			err = bob.Send(t.Context(), to, make([]byte, 1000))
		}
		if took := time.Since(begin); !errors.Is(err, transport.ErrUnreachable) || took > 30*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		synctest.Wait()
		if stats := bob.network.Stats(); stats.Refused["stalled"] != 1 || stats.Lost == 0 {
			t.Errorf("%+v", stats)
		}
		if bob.lines("peer lost") != 1 || bob.lines("connection refused") != 1 {
			t.Errorf("the log:\n%s", bob.log)
		}
		honest(t, alice, bob)
	})
}

// TestControlFloodIsAnsweredInConstantMemory: a peer that asks and never reads the answers.
func TestControlFloodIsAnsweredInConstantMemory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		flood := strings.Repeat(string(frame(ping, ""))+string(frame(subscribe, number(1)+"t"))+string(frame(unsubscribe, number(2)+"t")), 1000)
		for range 100 {
			mallory.say([]byte(flood))
		}
		kind, payload := mallory.hear()
		for kind == ack && payload != number(2) {
			kind, payload = mallory.hear()
		}
		mallory.say(frame(bye, "\x00"))
		heard, _ := io.Copy(io.Discard, mallory)
		if kind != ack || heard > 200 {
			t.Errorf("a frame of type %d and %d bytes answer 300,000 frames", kind, heard)
		}
		honest(t, alice, bob)
	})
}

func TestRateIsBoundedBeforeParsing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, alice, bob := trio(t, mesh.Config{FrameRate: 100})
		mallory := s.call(bob, "mallory")
		mallory.enter()
		go io.Copy(io.Discard, mallory)
		begin := time.Now()
		go func() {
			for range 1000 {
				mallory.Write(frame(data, "x"))
			}
		}()
		_ = alice
		for range 1000 {
			bob.next()
		}
		if took := time.Since(begin); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("1,000 frames at 100 a second took %s", took)
		}
	})
}

// TestPausesAreNotThePeersFault: what bob does not read for a while, because of the rate, is not too slow.
func TestPausesAreNotThePeersFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _, bob := trio(t, mesh.Config{ByteRate: 1000})
		busy := s.call(bob, "mallory")
		busy.enter()
		go io.Copy(io.Discard, busy)
		body := strings.Repeat("x", 30_000) // thirty seconds' worth
		go func() {
			for range 3 {
				busy.Write(frame(data, body))
				busy.Write(frame(ping, ""))
			}
		}()
		begin := time.Now()
		bob.expect(body, body, body)
		if took := time.Since(begin); took < 85*time.Second || bob.refused(mesh.Stalled) > 0 {
			t.Errorf("90,000 bytes took %s; %v", took, bob.network.Stats().Refused)
		}
	})
}
