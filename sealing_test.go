package converge_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

// statements is what a registry of signed key statements knows of sealing keys.
type statements struct {
	mu     sync.Mutex
	keys   map[identity.ID][]byte
	told   int
	broken bool
}

func (s *statements) source() *identity.SealingSource {
	return identity.NewSealingSource(func(id identity.ID) ([]byte, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.keys[id], nil
	})
}

// publisher returns what publishes the keys of an agent.
func (s *statements) publisher(id identity.ID) func(context.Context, identity.PublicSealingKey) error {
	return func(_ context.Context, key identity.PublicSealingKey) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told++
		if s.broken {
			return errors.New("the statement cannot be signed")
		}
		if s.keys == nil {
			s.keys = map[identity.ID][]byte{}
		}
		s.keys[id] = key.Bytes()
		return nil
	}
}

func (s *statements) set(broken bool) (told int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
	return s.told
}

// sealedConfig returns the configuration of an agent that seals all it says to one other.
func (w *world) sealedConfig(a converge.Agent, s *statements) converge.Config {
	w.t.Helper()
	c := w.config(a)
	c.Sealing = must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519}))
	c.Recipients, c.Seal, c.PublishSealing = s.source(), message.SealRequired, s.publisher(c.Identity.ID())
	return c
}

// bodyHook writes down the bodies that hooks see.
type bodyHook struct {
	mu             sync.Mutex
	sent, received []string
}

func (h *bodyHook) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, string(d.Body))
	return &d, nil
}

func (h *bodyHook) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received = append(h.received, string(m.Body()))
	return m, nil
}

// wiretap writes down the frames that are sent.
type wiretap struct {
	transport.Transport
	mu     sync.Mutex
	frames [][]byte
}

func (w *wiretap) Send(ctx context.Context, r transport.Route, frame []byte) error {
	w.mu.Lock()
	w.frames = append(w.frames, bytes.Clone(frame))
	w.mu.Unlock()
	return w.Transport.Send(ctx, r, frame)
}

func (w *wiretap) saw(text string) (plain bool, frames int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.frames, func(f []byte) bool { return bytes.Contains(f, []byte(text)) }), len(w.frames)
}

// TestWhatIsRequiredToBeSealedIsReadByItsAgentOnly has one agent tell another something, and the wire tapped.
func TestWhatIsRequiredToBeSealedIsReadByItsAgentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, known := newWorld(t), &statements{}
		listener, hook := &script{}, &bodyHook{}
		to := w.sealedConfig(listener, known)
		to.Hooks = []transport.Hook{hook}
		speaker := &script{decide: func(turn converge.Turn) []converge.Decision { return nil }}
		from := w.sealedConfig(speaker, known)
		tap := &wiretap{Transport: from.Transport}
		from.Transport, from.Hooks = tap, []transport.Hook{hook}
		from.TickEvery = time.Second
		speaker.decide = func(turn converge.Turn) []converge.Decision {
			if len(speaker.seen()) != 2 {
				return nil
			}
			return []converge.Decision{
				converge.SendMessage{Draft: message.Draft{To: to.Identity.ID(), Body: []byte("secret 1")}},
				converge.SendMessage{Draft: message.Draft{To: to.Identity.ID(), Body: []byte("secret 2")}},
				converge.SendMessage{Draft: message.Draft{Body: []byte("to whom?")}},
				converge.SendMessage{Draft: message.Draft{Body: []byte("for all"), Public: true}},
				converge.SendMessage{Draft: message.Draft{Body: []byte("secret 3"), SealTo: []identity.ID{to.Identity.ID()}}},
			}
		}
		b, a := w.run(to), w.run(from)
		time.Sleep(5 * time.Second)
		expectBodies(t, listener, "secret 1", "secret 2", "for all", "secret 3")
		if plain, frames := tap.saw("secret"); plain || frames != 4 {
			t.Errorf("%d frames were sent, of which one shows what is secret: %t", frames, plain)
		}
		if failures := speaker.failures(); len(failures) != 1 || !errors.Is(failures[0], message.ErrDraft) || !strings.Contains(failures[0].Error(), "Draft.Public") {
			t.Errorf("failures: %v", failures)
		}
		if want := []string{"secret 1", "secret 2", "to whom?", "for all", "secret 3"}; !slices.Equal(hook.sent, want) {
			t.Errorf("hooks saw %q leave", hook.sent)
		}
		if want := []string{"secret 1", "secret 2", "for all", "secret 3"}; !slices.Equal(hook.received, want) {
			t.Errorf("hooks saw %q arrive", hook.received)
		}
		if s, r := a.Stats(), b.Stats(); s.Sealed != 3 || s.Signed != 4 || r.Opened != 3 || r.Verified != 4 {
			t.Errorf("%d of %d sealed, %d of %d opened", s.Sealed, s.Signed, r.Opened, r.Verified)
		}
	})
}

// TestPlainMessageNeverReachesAnAgentThatRequiresSealing is about what comes to it alone.
func TestPlainMessageNeverReachesAnAgentThatRequiresSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, known := newWorld(t), &statements{}
		s := &script{}
		c := w.sealedConfig(s, known)
		a := w.run(c)
		synctest.Wait()
		peer := w.peer()
		peer.say(c.Identity.ID(), "plain")
		if _, err := peer.Send(t.Context(), message.Draft{Body: []byte("for all")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expectBodies(t, s, "for all")
		if n := a.Stats().Refused["unsealed"]; n != 1 {
			t.Errorf("%d were refused as unsealed", n)
		}
	})
}

// TestTasksOfAnotherProcessAreSealed has a worker claim and report at a host, and everything sealed.
func TestTasksOfAnotherProcessAreSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, known := newWorld(t), &statements{}
		desk := must(role.NewHost(remote.HostConfig{Tasks: w.tasks, Allow: remote.AllowAll, Logger: quiet}))
		host := w.sealedConfig(desk, known)
		hostTap := &wiretap{Transport: host.Transport}
		host.Transport = hostTap
		w.run(host)

		worker := &script{}
		worker.decide = func(turn converge.Turn) (all []converge.Decision) {
			for _, pending := range turn.Tasks {
				all = append(all, converge.ClaimTask{TaskID: pending.ID})
			}
			for _, claimed := range turn.Claimed {
				all = append(all, converge.ReportTask{TaskID: claimed.ID, Result: []byte(`"secret result"`)})
			}
			return all
		}
		c := w.sealedConfig(worker, known)
		c.Tasks = must(remote.New(remote.Config{Host: host.Identity.ID()}))
		tap := &wiretap{Transport: c.Transport}
		c.Transport = tap
		a := w.run(c)
		time.Sleep(2 * time.Second)
		spec := task.Spec{ID: "a", Kind: "k", Params: []byte(`{"x":"secret param"}`)}
		if errs := must(task.NewSigner(host.Identity, "test")).SignSpecs(&spec); errs != nil {
			t.Fatal(errs)
		}
		must(w.tasks.Submit(t.Context(), spec))
		time.Sleep(20 * time.Second)
		done, err := w.tasks.Get(t.Context(), "a")
		if err != nil || done.Status != task.Completed || string(done.Result) != `"secret result"` || done.Claimant != c.Identity.ID() {
			t.Fatalf("the task is %v, %v; failures %v", done, err, worker.failures())
		}
		for name, tapped := range map[string]*wiretap{"the worker": tap, "the host": hostTap} {
			if plain, frames := tapped.saw("secret"); plain || frames == 0 {
				t.Errorf("%s sent %d frames, of which one shows what is secret: %t", name, frames, plain)
			}
		}
		if s := a.Stats(); s.Sealed != s.Signed || s.Opened != s.Verified || s.Sealed == 0 || s.Opened == 0 {
			t.Errorf("%d of %d sealed, %d of %d opened", s.Sealed, s.Signed, s.Opened, s.Verified)
		}
	})
}

// TestSealingKeysRotateDailyAndNothingIsLost has one agent speak every ten minutes for three days.
func TestSealingKeysRotateDailyAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, known := newWorld(t), &statements{}
		listener := &script{}
		to := w.sealedConfig(listener, known)
		b := w.run(to)
		synctest.Wait()
		first := to.Sealing.Current().ID()
		sent := 0
		speaker := &script{decide: func(converge.Turn) []converge.Decision {
			sent++
			return []converge.Decision{converge.SendMessage{Draft: message.Draft{To: to.Identity.ID(), Body: []byte("secret")}}}
		}}
		from := w.sealedConfig(speaker, known)
		from.TickEvery = 10 * time.Minute
		a := w.run(from)
		most := 0
		for range 72 {
			time.Sleep(time.Hour)
			most = max(most, to.Sealing.Len())
		}
		time.Sleep(time.Minute) // the last message is out before its sender is stopped
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := len(listener.bodies()); got != sent || got < 400 {
			t.Errorf("%d of %d arrived; refused: %v; failures %v", got, sent, b.Stats().Refused, speaker.failures())
		}
		if _, err := to.Sealing.Find(first); !errors.Is(err, identity.ErrNoSealingKey) || most != 2 || to.Sealing.Current().ID() == first {
			t.Errorf("after three days %d keys were held at most, and the first is %v", most, err)
		}
	})
}

// TestSealingKeyThatCannotBePublishedIsPublishedLater has the statement fail for an hour.
func TestSealingKeyThatCannotBePublishedIsPublishedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, known := newWorld(t), &statements{}
		known.set(true)
		c := w.sealedConfig(&script{}, known)
		w.run(c)
		time.Sleep(time.Hour + time.Second)
		if told := known.set(false); told != 61 {
			t.Errorf("tried %d times in an hour", told)
		}
		time.Sleep(time.Minute)
		if key, err := known.source().SealingKey(c.Identity.ID()); err != nil || key.ID() != c.Sealing.Current().ID() {
			t.Errorf("published %s, %v", key, err)
		}
		time.Sleep(22 * time.Hour) // no rotation yet
		if told := known.set(false); told != 62 {
			t.Errorf("tried %d times", told)
		}
	})
}

// TestRuntimeThatPublishesNothingRotatesNothing leaves it to the owner, and forgets all the same.
func TestRuntimeThatPublishesNothingRotatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(&script{})
		c.Sealing = must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519, Overlap: time.Hour}))
		w.run(c)
		time.Sleep(49 * time.Hour)
		first := c.Sealing.Current().ID()
		if c.Sealing.Len() != 1 {
			t.Errorf("%d keys", c.Sealing.Len())
		}
		must(c.Sealing.Rotate())
		time.Sleep(3 * time.Hour)
		if _, err := c.Sealing.Find(first); !errors.Is(err, identity.ErrNoSealingKey) || c.Sealing.Len() != 1 {
			t.Errorf("%d keys are held: %v", c.Sealing.Len(), err)
		}
	})
}

// TestPanicWhilePublishingIsAnError costs a line in the log.
func TestPanicWhilePublishingIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(&script{})
		c.Sealing = must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519}))
		calls := 0
		c.PublishSealing = func(context.Context, identity.PublicSealingKey) error {
			if calls++; calls < 3 {
				panic("no")
			}
			return nil
		}
		a := w.run(c)
		time.Sleep(10 * time.Minute)
		if err := a.end(); err != nil || calls != 3 {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestSealingConfigIsChecked(t *testing.T) {
	w := newWorld(t)
	for field, spoil := range map[string]func(*converge.Config){
		"Config.Sealing":    func(c *converge.Config) { c.Sealing = nil; c.PublishSealing = nil },
		"Config.Recipients": func(c *converge.Config) { c.Recipients = nil },
		"Config.Seal":       func(c *converge.Config) { c.ReceiveUnsafe = true },
		"PublishSealing":    func(c *converge.Config) { c.Sealing, c.Seal = nil, message.SealAllow },
		"Seal: 9":           func(c *converge.Config) { c.Seal = 9 },
		"overlap":           func(c *converge.Config) { c.Verifier.MaxAge = 48 * time.Hour },
		"unsigned":          func(c *converge.Config) { c.Signature = message.UnsignedUnsafe },
	} {
		c := w.sealedConfig(&script{}, &statements{})
		spoil(&c)
		if _, err := converge.New(c); err == nil || !strings.Contains(err.Error(), strings.Replace(field, "unsigned", "not signed", 1)) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
