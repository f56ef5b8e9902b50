package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// snapshot is what a crash at one moment would leave.
type snapshot struct {
	store    store.Store
	accepted int // messages by then
	when     string
}

// TestCrashAtAnyWriteLosesNothing takes a copy of the store before and after each of its changes, over two
// lives with traffic, senders whose clocks are ahead, removal of old marks, and graceful stops. From each
// copy it starts anew and replays all that had been accepted by then.
func TestCrashAtAnyWriteLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var snapshots []snapshot
		var accepted [][]byte
		s := &tampered{Store: newStore(t)}
		take := func(when string) {
			snapshots = append(snapshots, snapshot{copyOf(t, s.Store), len(accepted), when})
		}
		var one sync.Mutex // several writes may be under way, beside the messages
		s.tamper(func(_ context.Context, op, key string, do func() error) error {
			one.Lock()
			defer one.Unlock()
			take("before " + op + " " + key[len(key)-8:])
			err := do()
			take("after " + op + " " + key[len(key)-8:])
			return err
		})
		sessions := []*message.Signer{sessionOf(alice, 0), sessionOf(carol, 15*time.Second), sessionOf(agent(4), -20*time.Second)}
		for range 2 {
			marks := must(message.NewMarks(message.MarksConfig{Store: s, Network: network, Agent: bob.ID(), Logger: quiet}))
			v := configured(message.VerifierConfig{Marks: marks, Keys: registryOf(alice, carol, agent(4))})
			if err := marks.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i := range crashSteps {
				time.Sleep(time.Duration(1+i%10) * time.Second)
				for _, session := range sessions {
					raw := toBob(t, session)
					if _, err := v.Verify(bytes.Clone(raw)); err == nil {
						one.Lock()
						accepted = append(accepted, raw)
						one.Unlock()
					}
				}
				synctest.Wait()
			}
			if err := marks.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if len(accepted) < 5*crashSteps || len(snapshots) < 2*crashSteps {
			t.Errorf("only %d messages and %d snapshots", len(accepted), len(snapshots))
		}
		for _, shot := range snapshots {
			marks := must(message.NewMarks(message.MarksConfig{Store: shot.store, Network: network, Agent: bob.ID(), Logger: quiet}))
			now := func() time.Time {
				return must(message.ParseUnsafe(bytes.Clone(accepted[max(shot.accepted-1, 0)]))).Issued()
			}
			v := configured(message.VerifierConfig{Marks: marks, Keys: registryOf(alice, carol, agent(4)), Now: now})
			if err := marks.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			refusesAll(t, v, accepted[:shot.accepted], shot.when)
			if err := marks.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// step is something that happens in a schedule.
type step struct {
	what string
	wait time.Duration // before it
	who  int           // the sender
	n    int           // which captured frame, which write, or how much
}

var stepKinds = []string{
	"send", "send", "send", "send", "send", "new session", "replay", "replay all", "crash", "crash amid a write",
	"stop", "stop that fails", "fail", "fail after", "hang", "heal", "clock", "sender's clock", "second process",
}

// TestNoScheduleDeliversTwice runs random schedules of messages, replays, crashes (also with a write under
// way, which may or may not have happened), restarts, failing stores, clocks that jump, and processes that
// overlap. Over all lives no message is accepted twice; in the end, fresh ones are accepted.
func TestNoScheduleDeliversTwice(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
		return step{
			what: rapid.SampledFrom(stepKinds).Draw(r, "what"),
			wait: time.Duration(rapid.SampledFrom([]int{0, 1, 10, 400, 1000, 3000, 60_000, 400_000}).Draw(r, "wait")) * time.Millisecond,
			who:  rapid.IntRange(0, len(cast)-1).Draw(r, "who"),
			n:    rapid.IntRange(0, 1000).Draw(r, "n"),
		}
	}), 1, 60)
	rapid.Check(t, func(r *rapid.T) {
		schedule := steps.Draw(r, "steps")
		var failure error
		synctest.Test(t, func(t *testing.T) { failure = newWorld(t).run(schedule) })
		if failure != nil {
			r.Fatal(failure)
		}
	})
}

// The senders of a schedule, and how far their clocks are ahead.
var (
	cast    = []*identity.Identity{alice, carol, agent(10), agent(11), agent(12), agent(13)}
	offsets = [...]time.Duration{0, 0, 300 * time.Millisecond, -20 * time.Second, 5 * time.Second, 29 * time.Second}
)

// world is where one schedule runs.
type world struct {
	t        *testing.T
	store    *moody
	lives    []*life      // the present process, and those that it has overtaken
	shift    atomic.Int64 // of all clocks, in nanoseconds
	offsets  [len(offsets)]time.Duration
	sessions []*message.Signer
	frames   [][]byte
	accepted map[message.ID]string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, accepted: map[message.ID]string{}, sessions: make([]*message.Signer, len(cast)), offsets: offsets}
	w.store = newMoody(newStore(t))
	for who := range cast {
		w.begin(who)
	}
	w.start()
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.shift.Load())) }

// begin begins a session of a sender.
func (w *world) begin(who int) {
	w.sessions[who] = must(message.NewSigner(message.SignerConfig{
		Identity: cast[who], Network: network, Now: func() time.Time { return w.now().Add(w.offsets[who]) },
	}))
}

// start starts a process of the receiver.
func (w *world) start() {
	w.store.heal()
	marks := must(message.NewMarks(message.MarksConfig{
		Store: w.store, Network: network, Agent: bob.ID(), Now: w.now, Logger: quiet,
	}))
	v := configured(message.VerifierConfig{Marks: marks, Keys: registryOf(cast...), Now: w.now})
	if err := marks.Open(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.lives = append([]*life{{Verifier: v, marks: marks}}, w.lives...)
}

// crash leaves all processes to themselves, and goes on with a copy of the store.
func (w *world) crash() {
	w.store.mu.Lock()
	if w.store.happens && w.store.pending != nil {
		w.store.pending()
	}
	w.store.mu.Unlock()
	kept := copyOf(w.t, w.store.Store)
	for _, l := range w.lives {
		l.crash()
	}
	w.lives, w.store = nil, newMoody(kept)
}

func (w *world) run(schedule []step) error {
	for i, s := range schedule {
		time.Sleep(s.wait)
		if err := w.take(s); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, s.what, err)
		}
	}
	defer w.crash()
	w.crash()
	time.Sleep(3 * time.Hour) // later than any clock has shown
	w.start()
	if err := w.offerAll("at last"); err != nil {
		return err
	}
	for who := range cast {
		w.begin(who)
		if err := w.offer(w.sign(who), "as a fresh one"); err != nil {
			return err
		}
		id := must(message.ParseUnsafe(bytes.Clone(w.frames[len(w.frames)-1]))).ID()
		if _, ok := w.accepted[id]; !ok {
			return fmt.Errorf("a fresh message of sender %d is refused: %v", who, w.lives[0].Refused())
		}
	}
	return nil
}

func (w *world) take(s step) error {
	switch s.what {
	case "send":
		return w.offer(w.sign(s.who), "when it was sent")
	case "new session":
		w.begin(s.who)
	case "replay":
		if len(w.frames) > 0 {
			return w.offer(w.frames[s.n%len(w.frames)], "replayed")
		}
	case "replay all":
		return w.offerAll("replayed")
	case "crash":
		w.crash()
		w.start()
	case "crash amid a write":
		w.crashAmidWrite(s)
	case "stop", "stop that fails":
		if s.what != "stop" {
			w.store.get([]string{"fail", "fail after", "hang"}[s.n%3], s.n/3%4)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		w.lives[0].marks.Close(ctx)
		cancel()
		w.start()
	case "fail", "fail after", "hang":
		w.store.get(s.what, s.n%3)
	case "heal":
		w.store.heal()
	case "clock":
		w.shift.Store(int64(time.Duration(s.n-500) * 7 * time.Second)) // up to an hour either way
	case "sender's clock":
		w.offsets[s.who] = offsets[s.n%len(offsets)]
	case "second process":
		if len(w.lives) < 3 {
			w.start()
		}
	}
	return nil
}

func (w *world) crashAmidWrite(s step) {
	w.store.get("hang", 0)
	raw := w.sign(s.who)
	accepted := make(chan *message.Message, 1)
	verifier := w.lives[0].Verifier
	go func() {
		m, _ := verifier.Verify(bytes.Clone(raw))
		accepted <- m
	}()
	synctest.Wait()
	select {
	case m := <-accepted:
		if m != nil {
			w.accepted[m.ID()] = "right before a crash"
		}
	default:
	}
	w.store.mu.Lock()
	w.store.happens = s.n%2 == 0
	w.store.mu.Unlock()
	w.crash()
	w.start()
}

func (w *world) sign(who int) []byte {
	time.Sleep(time.Millisecond)
	raw := toBob(w.t, w.sessions[who])
	w.frames = append(w.frames, raw)
	return raw
}

// offer has all processes verify a frame.
func (w *world) offer(raw []byte, when string) error {
	for i, l := range w.lives {
		m, err := l.Verify(bytes.Clone(raw))
		if err != nil {
			continue
		}
		if before, twice := w.accepted[m.ID()]; twice {
			return fmt.Errorf("message %d of %s is accepted %s, by process %d, and was %s", m.Sequence(), m.Sender().Short(), when, i, before)
		}
		w.accepted[m.ID()] = when
	}
	return nil
}

func (w *world) offerAll(when string) error {
	for _, raw := range w.frames {
		if err := w.offer(raw, when); err != nil {
			return err
		}
	}
	return nil
}

// moody is a store whose changes fail at times.
type moody struct {
	tampered
	mu      sync.Mutex
	mood    string
	left    int          // changes before the mood shows
	pending func() error // a change that hangs
	happens bool         // it happens with the crash
}

func newMoody(s store.Store) *moody {
	m := &moody{tampered: tampered{Store: s}}
	m.tamper(m.act)
	return m
}

func (s *moody) heal() { s.get("", 0) }

func (s *moody) get(mood string, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood, s.left = mood, left
}

func (s *moody) act(ctx context.Context, _, _ string, do func() error) error {
	s.mu.Lock()
	mood := s.mood
	if s.left--; s.left >= 0 {
		mood = ""
	}
	if mood == "hang" {
		s.pending = do
	}
	s.mu.Unlock()
	switch mood {
	case "fail":
		return errors.New("failed")
	case "fail after":
		return errors.Join(do(), errors.New("failed"))
	case "hang":
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return do()
}
