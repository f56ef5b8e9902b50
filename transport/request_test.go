package transport_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/transport"
)

// ask has alice ask bob, and returns what she gets.
func (s side) ask(ctx context.Context, to side, body string) <-chan reply {
	got := make(chan reply, 1)
	go func() {
		m, err := s.Request(ctx, message.Draft{To: to.id.ID(), Body: []byte(body)})
		got <- reply{m, err}
	}()
	return got
}

type reply struct {
	m   *message.Message
	err error
}

// listen has s receive until the test ends, and returns what is no answer.
func (s side) listen(t *testing.T) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			m, err := s.Receive(ctx)
			if err != nil {
				return
			}
			heard <- string(m.Body())
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	return heard
}

func (s side) answer(t *testing.T, question *message.Message, body string) {
	t.Helper()
	if _, err := s.Send(t.Context(), message.Draft{To: question.Sender(), InReplyTo: question.ID(), Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func TestRequestGetsItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := pair(t, transport.HookedConfig{})
		heard := alice.listen(t)
		first, second := alice.ask(t.Context(), bob, "1?"), alice.ask(t.Context(), bob, "2?")
		questions := map[string]*message.Message{}
		for range 2 {
			m, err := bob.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			questions[string(m.Body())] = m
		}
		bob.answer(t, questions["2?"], "2!")
		bob.say(t, alice, "by the way")
		bob.answer(t, questions["1?"], "1!")
		for want, got := range map[string]<-chan reply{"1!": first, "2!": second} {
			if r := <-got; r.err != nil || string(r.m.Body()) != want || !r.m.Verified() || r.m.Sender() != bob.id.ID() {
				t.Errorf("got %v, %v, want %s", r.m, r.err, want)
			}
		}
		bob.answer(t, questions["1?"], "once more")
		synctest.Wait()
		if a, b := <-heard, <-heard; a != "by the way" || b != "once more" {
			t.Errorf("heard %q and %q: what is no first answer is received like any message", a, b)
		}
	})
}

// TestAnswerOfAnotherAgentIsNotTaken has a third agent, known and verified, answer in Bob's place.
func TestAnswerOfAnotherAgentIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, carol := trio(t)
		heard := alice.listen(t)
		got := alice.ask(t.Context(), bob, "who?")
		question, err := bob.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		carol.answer(t, question, "me!")
		synctest.Wait()
		if len(got) > 0 {
			t.Fatal("an answer of another agent was taken")
		}
		if said := <-heard; said != "me!" {
			t.Errorf("heard %q", said)
		}
		bob.answer(t, question, "Bob")
		if r := <-got; r.err != nil || string(r.m.Body()) != "Bob" {
			t.Errorf("got %v, %v", r.m, r.err)
		}
	})
}

func TestRequestEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := pair(t, transport.HookedConfig{})
		heard := alice.listen(t)
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, enough)
		defer cancel()
		got := alice.ask(ctx, bob, "anybody there?")
		question, err := bob.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r := <-got; !errors.Is(r.err, enough) {
			t.Errorf("got %v, %v", r.m, r.err)
		}
		bob.answer(t, question, "too late")
		if said := <-heard; said != "too late" {
			t.Errorf("heard %q", said)
		}
	})
}

func TestRequestErrors(t *testing.T) {
	alice, bob := pair(t, transport.HookedConfig{})
	if _, err := alice.Request(t.Context(), message.Draft{Body: []byte("to all?")}); err == nil || !strings.Contains(err.Error(), "Draft.To") {
		t.Errorf("a request to all: %v", err)
	}
	bob.transport.Close()
	if _, err := alice.Request(t.Context(), message.Draft{To: bob.id.ID()}); !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("a request to nobody: %v", err)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := pair(t, transport.HookedConfig{})
		bob.listenAndForget(t)
		ctx, cancel := context.WithCancel(t.Context())
		var open []<-chan reply
		for range transport.MaxRequests {
			open = append(open, alice.ask(ctx, bob, "?"))
		}
		synctest.Wait()
		if _, err := alice.Request(ctx, message.Draft{To: bob.id.ID()}); !errors.Is(err, transport.ErrTooManyRequests) {
			t.Errorf("one request too many: %v", err)
		}
		cancel()
		for _, got := range open {
			if r := <-got; !errors.Is(r.err, context.Canceled) {
				t.Fatal(r.err)
			}
		}
		late, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if _, err := alice.Request(late, message.Draft{To: bob.id.ID()}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("once there is room: %v", err)
		}
	})
}

// listenAndForget takes in what comes, so that no queue is full.
func (s side) listenAndForget(t *testing.T) {
	heard := s.listen(t)
	go func() {
		for {
			select {
			case <-heard:
			case <-t.Context().Done():
				return
			}
		}
	}()
}

// TestSendAllSendsInOrderUnderOneSignature also has drafts in it that a hook drops or fails on, and one
// that cannot be signed.
func TestSendAllSendsInOrderUnderOneSignature(t *testing.T) {
	failed := errors.New("bad hook")
	picky := transport.OnSend(func(_ context.Context, d message.Draft) (*message.Draft, error) {
		switch string(d.Body) {
		case "1":
			return nil, nil
		case "2":
			return nil, failed
		}
		return &d, nil
	})
	alice, bob := pair(t, transport.HookedConfig{Hooks: []transport.Hook{picky}})
	drafts := make([]message.Draft, 8)
	for i := range drafts {
		drafts[i] = message.Draft{To: bob.id.ID(), Body: fmt.Append(nil, i)}
	}
	drafts[4].TTL = -1
	drafts[6].To = strangerID(t)
	errs := alice.SendAll(t.Context(), drafts)
	for i, want := range map[int]error{0: nil, 1: transport.ErrDropped, 2: failed, 3: nil, 4: message.ErrDraft, 5: nil, 6: transport.ErrUnreachable, 7: nil} {
		if !errors.Is(errs[i], want) {
			t.Errorf("draft %d: %v, want %v", i, errs[i], want)
		}
	}
	for _, want := range []string{"0", "3", "5", "7"} {
		bob.hears(t, want)
	}
	if errs := alice.SendAll(t.Context(), []message.Draft{{To: bob.id.ID(), Body: []byte("a")}, {To: bob.id.ID(), Body: []byte("b")}}); errs != nil {
		t.Errorf("all is well: %v", errs)
	}
	if alice.signer.Batches() != 2 {
		t.Errorf("%d shared signatures", alice.signer.Batches())
	}
}

// acknowledged is a transport whose frames want to be acknowledged.
type acknowledged struct {
	transport.Transport
	done []string
}

func (a *acknowledged) Receive(ctx context.Context) (transport.Frame, error) {
	f, err := a.Transport.Receive(ctx)
	m, parseErr := message.ParseUnsafe(append([]byte(nil), f.Data...))
	name := "garbage"
	if parseErr == nil {
		name = string(m.Body())
	}
	f.Done = func() { a.done = append(a.done, name) }
	return f, err
}

// TestFramesAreAcknowledgedWhenTaken holds Deliver to what it says about frames that are taken, refused,
// dropped by a hook, and not taken.
func TestFramesAreAcknowledgedWhenTaken(t *testing.T) {
	alice, bob := pair(t, transport.HookedConfig{})
	dropSpam := transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
		if string(m.Body()) == "spam" {
			return nil, nil
		}
		return m, nil
	})
	reliable := &acknowledged{Transport: bob.transport}
	hooked, err := transport.NewHooked(transport.HookedConfig{Transport: reliable, Signer: bob.signer, Verifier: bob.verifier, Hooks: []transport.Hook{dropSpam}})
	if err != nil {
		t.Fatal(err)
	}
	alice.say(t, bob, "spam")
	if err := alice.transport.Send(t.Context(), transport.Route{To: bob.id.ID()}, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	alice.say(t, bob, "ham")
	alice.say(t, bob, "eggs")
	full := errors.New("full")
	err = hooked.Deliver(t.Context(), func(_ context.Context, m *message.Message) error {
		expectLog(t, reliable.done, "spam", "garbage")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	expectLog(t, reliable.done, "spam", "garbage", "ham")
	if err := hooked.Deliver(t.Context(), func(context.Context, *message.Message) error { return full }); !errors.Is(err, full) {
		t.Errorf("Deliver: %v, want take's error", err)
	}
	expectLog(t, reliable.done, "spam", "garbage", "ham")
}

// TestFrameThatIsRefusedOnlyForNowIsNotAcknowledged is about marks that cannot be written: the transport may
// deliver the message again.
func TestFrameThatIsRefusedOnlyForNowIsNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		alice, bob := s.join(t, transport.HookedConfig{}), s.join(t, transport.HookedConfig{})
		marksStore, err := memory.New(memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer marksStore.Close()
		marks, err := message.NewMarks(message.MarksConfig{Store: marksStore, Network: "test", Agent: bob.id.ID()})
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := message.NewVerifier(message.VerifierConfig{Self: bob.id.ID(), Network: "test", Keys: s.registry, Marks: marks})
		if err != nil {
			t.Fatal(err)
		}
		reliable := &acknowledged{Transport: bob.transport}
		var refused []message.Reason
		hooked, err := transport.NewHooked(transport.HookedConfig{Transport: reliable, Signer: bob.signer, Verifier: verifier,
			UnverifiedDrop: func(_ context.Context, r *message.Refusal) { refused = append(refused, r.Reason) }})
		if err != nil {
			t.Fatal(err)
		}
		alice.say(t, bob, "too early") // the marks are not open
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if m, err := hooked.Receive(ctx); err == nil {
			t.Errorf("received %v", m)
		}
		expectLog(t, reliable.done)
		if len(refused) != 1 || refused[0] != message.ErrNoMarks {
			t.Errorf("refused %v", refused)
		}
	})
}
