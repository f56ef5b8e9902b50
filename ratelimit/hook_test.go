package ratelimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

const network = "test.example"

// The cast of the tests that sign: all are registered, Mallory included.
var victim, mallory, receiver, bystander = agent(1), agent(66), agent(2), agent(3)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// signer returns a new session of id.
func signer(id *identity.Identity, clock *clock) *message.Signer {
	return must(message.NewSigner(message.SignerConfig{Identity: id, Network: network, Now: clock.Now}))
}

// sign returns n messages.
func sign(s *message.Signer, n int, d message.Draft) (all []*message.Message) {
	for range n {
		all = append(all, must(s.Sign(context.Background(), d)))
	}
	return all
}

// passing returns how many messages the hook lets pass.
func passing(t *testing.T, h transport.Hook, messages ...*message.Message) (count int) {
	t.Helper()
	for _, m := range messages {
		passed, err := h.PostReceive(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if passed != nil {
			count++
			if passed != m {
				t.Error("the hook returned another message")
			}
		}
	}
	return count
}

func expectDropped(t *testing.T, h *ratelimit.Hook, global, sender, topic uint64) {
	t.Helper()
	want := map[string]uint64{"global": global, "sender": sender, "topic": topic}
	if got := h.Dropped(); !maps.Equal(got, want) {
		t.Errorf("dropped %v; want %v", got, want)
	}
}

func TestHookDropsWhatIsBeyondTheLimitsAndCountsItByScope(t *testing.T) {
	limit := ratelimit.Limit{Rate: 1, Burst: 3}
	for name, c := range map[string]struct {
		config                ratelimit.Config
		global, sender, topic uint64
	}{
		"global": {config: ratelimit.Config{Global: limit}, global: 7},
		"sender": {config: ratelimit.Config{Sender: limit}, sender: 7},
		"topic":  {config: ratelimit.Config{Topic: limit}, topic: 7},
	} {
		t.Run(name, func(t *testing.T) {
			clock := new(clock)
			h := ratelimit.NewHook(newLimiter(t, clock, c.config))
			expectDropped(t, h, 0, 0, 0)
			messages := sign(signer(victim, clock), 10, message.Draft{Topics: orders})
			if got := passing(t, h, messages...); got != 3 {
				t.Errorf("%d of 10 messages passed; the burst is 3", got)
			}
			expectDropped(t, h, c.global, c.sender, c.topic)
			clock.step(2 * time.Second)
			if got := passing(t, h, messages...); got != 2 {
				t.Errorf("%d messages passed two seconds later; the rate is one a second", got)
			}
		})
	}
}

func TestHookLimitsEachSenderByItself(t *testing.T) {
	clock := new(clock)
	h := ratelimit.NewHook(newLimiter(t, clock, ratelimit.Config{Sender: perSecond}))
	passing(t, h, sign(signer(mallory, clock), 100, message.Draft{})...)
	if got := passing(t, h, sign(signer(victim, clock), 3, message.Draft{})...); got != 3 {
		t.Errorf("%d of a burst of 3 passed after somebody else's flood", got)
	}
	expectDropped(t, h, 0, 97, 0)
}

func TestDraftsPassTheHook(t *testing.T) {
	h := ratelimit.NewHook(must(ratelimit.New(ratelimit.Config{}))) // which denies everything
	want := message.Draft{To: bob, Body: []byte("hello"), TaskID: "t"}
	got, err := h.PreSend(t.Context(), want)
	if err != nil || got == nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("PreSend: %+v, %v", got, err)
	}
	expectDropped(t, h, 0, 0, 0)
}

func TestHooksThatShareALimiterCountForThemselves(t *testing.T) {
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond})
	first, second := ratelimit.NewHook(l), ratelimit.NewHook(l)
	messages := sign(signer(victim, clock), 4, message.Draft{})
	if got := passing(t, first, messages...) + passing(t, second, messages...); got != 3 {
		t.Errorf("%d passed of what is limited together to 3", got)
	}
	expectDropped(t, first, 0, 1, 0)
	expectDropped(t, second, 0, 4, 0)
}

func TestHookIsSafeForConcurrentUse(t *testing.T) {
	clock := new(clock)
	h := ratelimit.NewHook(newLimiter(t, clock, ratelimit.Config{Sender: ratelimit.Limit{Rate: 1, Burst: 100}}))
	messages := sign(signer(victim, clock), 50, message.Draft{})
	var passed atomic.Int64
	var flood sync.WaitGroup
	for range 8 {
		flood.Go(func() {
			for _, m := range messages {
				if m, _ := h.PostReceive(context.Background(), m); m != nil {
					passed.Add(1)
				}
			}
		})
	}
	flood.Wait()
	if passed.Load() != 100 {
		t.Errorf("%d of a burst of 100 passed", passed.Load())
	}
	expectDropped(t, h, 0, 300, 0)
}

// TestHookWithoutLimiterDenies: a missing policy denies.
func TestHookWithoutLimiterDenies(t *testing.T) {
	h := ratelimit.NewHook(nil)
	if got := passing(t, h, sign(signer(victim, new(clock)), 5, message.Draft{})...); got != 0 {
		t.Errorf("%d of 5 messages passed", got)
	}
	expectDropped(t, h, 5, 0, 0)
}

func TestErrOfAResult(t *testing.T) {
	if err := (ratelimit.Result{OK: true}).Err(); err != nil {
		t.Errorf("an admission has the error %v", err)
	}
	clock := new(clock)
	l := newLimiter(t, clock, ratelimit.Config{Sender: perSecond})
	admitted(l, 3, alice, nil)
	clock.step(400 * time.Millisecond)
	err := fmt.Errorf("send_message: %w", l.Take(alice, nil).Err())
	if !errors.Is(err, ratelimit.ErrLimited) {
		t.Errorf("%v is not ErrLimited", err)
	}
	limited, ok := errors.AsType[*ratelimit.LimitError](err)
	if !ok || limited.Scope != ratelimit.ScopeSender || limited.RetryAfter != 600*time.Millisecond {
		t.Errorf("%v: %+v; want the sender scope, to be tried again after 600ms", err, limited)
	}
	if text := err.Error(); !strings.Contains(text, "sender") || !strings.Contains(text, "600ms") {
		t.Errorf("%q says neither what nor when", text)
	}
	clock.step(limited.RetryAfter)
	if !l.Take(alice, nil).OK {
		t.Error("refused after the pause that it asked for")
	}

	never := must(ratelimit.New(ratelimit.Config{})).Take(alice, nil).Err()
	if limited, ok := errors.AsType[*ratelimit.LimitError](never); !ok || limited.RetryAfter != ratelimit.Never || limited.Scope != ratelimit.ScopeGlobal {
		t.Errorf("%v: %+v; want Never, by the global scope", never, limited)
	}
	if strings.Contains(never.Error(), "retry") {
		t.Errorf("%q promises that waiting helps", never)
	}
}

// hall is an agent that receives through a hook, on a network with an attacker.
type hall struct {
	*transport.Hooked
	hook   *ratelimit.Hook
	clock  *clock
	t      *testing.T
	wire   transport.Transport // Mallory's
	honest transport.Transport // the victim's
	drops  map[string]int      // refused frames by reason
}

const burst = 20

// newHall limits everything to a burst, globally too, so that whatever a spoofed frame took would be
// missing afterwards.
func newHall(t *testing.T) *hall {
	t.Helper()
	clock := new(clock)
	limit := ratelimit.Limit{Rate: 1, Burst: burst}
	h := &hall{t: t, clock: clock, drops: map[string]int{}}
	h.hook = ratelimit.NewHook(newLimiter(t, clock, ratelimit.Config{Global: limit, Sender: limit, Topic: limit}))
	registry := identity.NewRegistry(0)
	wires := must(local.New(local.Config{Capacity: 1 << 16}))
	join := func(id *identity.Identity) transport.Transport {
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
		endpoint := wires.Endpoint(id.ID())
		if err := endpoint.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { endpoint.Close() })
		return endpoint
	}
	h.honest, h.wire = join(victim), join(mallory)
	var err error
	h.Hooked, err = transport.NewHooked(transport.HookedConfig{
		Transport: join(receiver),
		Signer:    signer(receiver, clock),
		Verifier: must(message.NewVerifier(message.VerifierConfig{
			Self: receiver.ID(), Network: network, Keys: registry, Now: clock.Now,
		})),
		Hooks:  []transport.Hook{h.hook},
		Logger: slog.New(slog.DiscardHandler),
		UnverifiedDrop: func(_ context.Context, r *message.Refusal) {
			h.drops[r.Reason.String()]++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Subscribe(t.Context(), message.MustPattern("orders")); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hall) send(from transport.Transport, frame []byte) {
	h.t.Helper()
	if err := from.Send(h.t.Context(), transport.Route{To: receiver.ID()}, bytes.Clone(frame)); err != nil {
		h.t.Fatal(err)
	}
}

// spoofs makes, by the reason for their refusal, the nth frame that names the victim as its sender
// though the victim did not send it, or not here, or not now.
func spoofs(h *hall) map[string]func(n int) []byte {
	again := func(m *message.Message) func(int) []byte {
		return func(int) []byte { return m.Raw() }
	}
	forger := signer(mallory, h.clock)
	accepted := sign(signer(victim, h.clock), 1, message.Draft{Topics: orders})[0]
	h.send(h.honest, accepted.Raw())

	at := func(d time.Duration) *clock {
		c := new(clock)
		c.step(d)
		return c
	}
	other := must(message.NewSigner(message.SignerConfig{Identity: victim, Network: "elsewhere", Now: h.clock.Now}))
	speech := signer(victim, h.clock)
	return map[string]func(n int) []byte{
		// Mallory's signature on a header that names the victim, each time a fresh one.
		"bad_signature": func(int) []byte {
			m := sign(forger, 1, message.Draft{Topics: orders})[0]
			mine, theirs := mallory.ID(), victim.ID()
			return bytes.ReplaceAll(m.Raw(), mine[:], theirs[:])
		},
		// A message that the victim has sent and that was accepted.
		"replayed": again(accepted),
		// Messages that the victim sent to others: to an agent, to a network, to a topic.
		"misaddressed": func(n int) []byte {
			return []*message.Message{
				sign(speech, 1, message.Draft{To: bystander.ID()})[0],
				sign(speech, 1, message.Draft{Topics: refunds})[0],
				sign(other, 1, message.Draft{Topics: orders})[0],
			}[n%3].Raw()
		},
		"expired":       again(sign(signer(victim, at(-time.Hour)), 1, message.Draft{Topics: orders})[0]),
		"not_yet_valid": again(sign(signer(victim, at(time.Hour)), 1, message.Draft{Topics: orders})[0]),
		// One of an earlier run of the victim, which the receiver may have accepted before it restarted.
		"stale_session": again(sign(signer(victim, at(-time.Minute)), 1, message.Draft{Topics: orders})[0]),
		// A message with its body or its signature changed.
		"altered": func(n int) []byte {
			raw := bytes.Clone(sign(speech, 1, message.Draft{Topics: orders, Body: make([]byte, 1000)})[0].Raw())
			raw[len(raw)-1-n] ^= 1
			return raw
		},
	}
}

// TestSpoofedFloodLeavesTheVictimsBucketFull sends several times the limit of each kind of frame that names
// the victim as its sender. Nothing of the victim's may be used up by that.
func TestSpoofedFloodLeavesTheVictimsBucketFull(t *testing.T) {
	kinds := []string{"bad_signature", "replayed", "misaddressed", "expired", "not_yet_valid", "stale_session", "altered"}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { spoof(t, kind) })
		})
	}
	t.Run("all at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { spoof(t, kinds...) })
	})
}

func spoof(t *testing.T, kinds ...string) {
	h := newHall(t)
	frame := spoofs(h)
	if _, err := h.Receive(t.Context()); err != nil { // the one that is replayed
		t.Fatal(err)
	}
	h.clock.step(time.Second) // and its token is back
	const flood = 4 * burst
	for n := range flood {
		for _, kind := range kinds {
			h.send(h.wire, frame[kind](n))
		}
	}
	messages := sign(signer(victim, h.clock), burst+1, message.Draft{Topics: orders})
	for _, m := range messages[:burst] {
		h.send(h.honest, m.Raw())
	}
	for n := range burst {
		m, err := h.Receive(t.Context())
		if err != nil || m.Sender() != victim.ID() || m.Sequence() != uint64(n+1) {
			t.Fatalf("after the flood, message %d of the burst: %v, %v", n+1, m, err)
		}
	}
	expectDropped(t, h.hook, 0, 0, 0)
	refused := 0
	for reason, n := range h.drops {
		refused += n
		if len(kinds) == 1 && kinds[0] != "altered" && reason != kinds[0] {
			t.Errorf("%d frames were refused as %s", n, reason)
		}
	}
	if refused != flood*len(kinds) {
		t.Errorf("%d of %d spoofed frames were refused by verification: %v", refused, flood*len(kinds), h.drops)
	}
	h.expectNoMore(messages[burst])
	expectDropped(t, h.hook, 1, 0, 0) // so it was the whole bucket
}

// expectNoMore sends a message of the victim that must not get through.
func (h *hall) expectNoMore(m *message.Message) {
	h.t.Helper()
	h.send(h.honest, m.Raw())
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
	defer cancel()
	if m, err := h.Receive(ctx); err == nil {
		h.t.Errorf("%v got through, beyond the limit", m)
	}
}
