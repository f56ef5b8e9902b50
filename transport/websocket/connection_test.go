package websocket_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

// TestTrickleIsEnded has each byte come just before one would give up waiting for it: the rate is too low.
func TestTrickleIsEnded(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, func(c *websocket.Config) { c.ProgressTimeout, c.MinRate = time.Second, 1<<20 })
		message := wsFrame(fin|opBinary, meshFrame(0, make([]byte, 64<<10)))
		for name, trickle := range map[string]func(i *intruder, b byte) error{
			"a message byte by byte": func(i *intruder, b byte) error { return i.write([]byte{b}) },
			"bytes in messages":      func(i *intruder, b byte) error { return i.message([]byte{b}) },
		} {
			t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
				i := s.join(s.mallory)
				stream := message
				if strings.HasPrefix(name, "bytes") {
					stream = message[14:]
				}
				s.refuses("stalled", func() {
					before := s.network.Stats().Refused["stalled"]
					for _, b := range stream {
						if trickle(i, b) != nil || s.network.Stats().Refused["stalled"] > before {
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
				})
				i.ws.CloseNow()
			})
		}
	})
}

// TestPeerThatNeverReadsIsDisconnected has mallory take nothing of what she is sent.
func TestPeerThatNeverReadsIsDisconnected(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, func(c *websocket.Config) {
			c.ProgressTimeout, c.MinRate, c.Grace = time.Second, 1<<20, 10*time.Millisecond
		})
		i := s.join(s.mallory)
		s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		s.refuses("stalled", func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for s.listener.Send(ctx, transport.Route{To: s.mallory.ID()}, make([]byte, 1<<20)) == nil {
			}
		})
		i.conn.Close()
	})
}

// TestDuplicateConnectionsReplaceEachOther has one peer connect again and again: only one connection of hers
// stays.
func TestDuplicateConnectionsReplaceEachOther(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, nil)
		const times = 20
		var all []*intruder
		for n := range times {
			all = append(all, s.join(s.mallory))
			s.until("the connection is there", func() bool { return s.network.Stats().Opened == uint64(n+2) })
		}
		for _, i := range all[:times-1] {
			i.endsWith(coder.StatusNormalClosure)
		}
		s.until("one connection of each peer is left", func() bool { return s.network.Stats().Connections == 2 })
		s.honest()
		if stats := s.bobs.Stats(); stats.Closed != 0 {
			t.Errorf("the honest peer was disconnected: %+v", stats)
		}
	})
}

func TestConnectionThatBreaksInTheMiddleOfAFrameCostsNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, nil)
		i := s.join(s.mallory)
		s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		i.write(wsFrame(fin|opBinary, meshFrame(0, make([]byte, 1000)))[:500])
		i.conn.Close()
		s.until("it is closed", func() bool { return s.network.Stats().Closed == 1 })
		s.honest()
	})
}

// TestFragmentsAreOneStream: where messages and their fragments begin and end means nothing.
func TestFragmentsAreOneStream(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, nil)
		i := s.join(s.mallory)
		stream := append(meshFrame(0, []byte("in many")), meshFrame(0, []byte("fragments"))...)
		for n, b := range stream {
			head := byte(opContinuation)
			if n%5 == 0 {
				head = opBinary
			}
			if n%5 == 4 || n == len(stream)-1 {
				head |= fin
			}
			i.write(wsFrame(head, []byte{b}))
			i.write(wsFrame(fin|opPing, nil)) // control frames may come between fragments
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, want := range []string{"in many", "fragments"} {
			if frame, err := s.listener.Receive(ctx); err != nil || string(frame.Data) != want {
				t.Errorf("received %q, %v, want %q", frame.Data, err, want)
			}
		}
	})
}

func TestCapsOnConnections(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		t.Run("unproven", func(t *testing.T) {
			s := newScene(t, proof, func(c *websocket.Config) { c.MaxHandshakes = 2 })
			s.refuses("evicted", func() {
				for range 3 {
					t.Cleanup(func() { s.dial("").Close() })
					conn := s.dial("")
					t.Cleanup(func() { conn.Close() })
				}
			})
		})
		for word, limit := range map[string]func(*websocket.Config){
			"too_many":              func(c *websocket.Config) { c.MaxConnections = 1 },
			"too_many_from_address": func(c *websocket.Config) { c.MaxPerAddress = 1 },
		} {
			t.Run(word, func(t *testing.T) {
				s := newScene(t, proof, limit) // bob has the one that there may be
				s.refuses(word, func() { s.join(s.mallory).endsWith(coder.StatusPolicyViolation) })
			})
		}
	})
}

// TestPingIsAnsweredHoweverLongNothingWasWritten: the time that the last write had is no time for what comes after it.
func TestPingIsAnsweredHoweverLongNothingWasWritten(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		t.Parallel()
		s := newScene(t, proof, func(c *websocket.Config) { c.ProgressTimeout, c.MinRate = time.Second, 1<<20 })
		i := s.join(s.mallory)
		s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var reading sync.WaitGroup
		defer reading.Wait()
		defer cancel()
		reading.Go(func() { // the answers, too
			for err := error(nil); err == nil; _, _, err = i.ws.Read(ctx) {
			}
		})
		for range 3 {
			time.Sleep(500 * time.Millisecond)
			if err := i.ws.Ping(ctx); err != nil {
				t.Fatalf("a ping is not answered: %v", err)
			}
		}
		if stats := s.network.Stats(); stats.Closed != 0 {
			t.Errorf("the connection has ended: %+v\n%s", stats, s.log)
		}
		s.honest()
	})
}

func TestEndIsAnnounced(t *testing.T) {
	inBothModes(t, func(t *testing.T, proof websocket.Proof) {
		s := newScene(t, proof, nil)
		i := s.join(s.mallory)
		s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		s.network.RemovePeer(s.mallory.ID())
		i.endsWith(coder.StatusNormalClosure)
		if err := s.network.AddPeer(websocket.Peer{ID: s.mallory.ID()}); err != nil {
			t.Fatal(err)
		}
		i = s.join(s.mallory)
		s.until("mallory is connected", func() bool { return s.network.Connected(s.mallory.ID()) })
		closing := make(chan struct{})
		go func() { s.network.Close(); close(closing) }()
		i.endsWith(coder.StatusGoingAway)
		<-closing
	})
}
