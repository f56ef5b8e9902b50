package converge_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/transport"
)

func tell(to peer, body string) converge.Decision {
	return converge.SendMessage{Draft: message.Draft{To: to.id.ID(), Body: []byte(body)}}
}

// TestConsecutiveMessagesOfATurnShareASignature on both paths, and decisions between them keep their place.
func TestConsecutiveMessagesOfATurnShareASignature(t *testing.T) {
	for name, executor := range map[string]*converge.ExecutorConfig{"fallback": nil, "executor": {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bob := w.peer()
				var decisions []converge.Decision
				for i := range 10 {
					decisions = append(decisions, tell(bob, fmt.Sprint(i)))
				}
				decisions = append(decisions, converge.Wake{}, tell(bob, "alone"))
				c := w.config(&script{decide: once(decisions...)})
				c.Executor = executor
				a := w.run(c)
				for i := range 10 {
					if got := bob.hear(); got != fmt.Sprint(i) {
						t.Errorf("heard %q, want %d", got, i)
					}
				}
				if got := bob.hear(); got != "alone" {
					t.Errorf("heard %q", got)
				}
				synctest.Wait()
				s := a.Stats()
				if s.Signed != 11 || s.Batches != 1 || s.Decisions["send_message"].Done != 11 {
					t.Errorf("%d signed, %d batches, decisions %v", s.Signed, s.Batches, s.Decisions)
				}
			})
		})
	}
}

// TestOneMessageThatFailsDoesNotKeepTheOthersBack shows the agent which ones of a batch failed, and why.
func TestOneMessageThatFailsDoesNotKeepTheOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob, gone := w.peer(), w.peer()
		gone.raw.Close()
		limiter, err := ratelimit.New(ratelimit.Config{
			Global: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 0.001, Burst: 4}, Topic: ratelimit.Unlimited,
		})
		if err != nil {
			t.Fatal(err)
		}
		bad := tell(bob, "bad").(converge.SendMessage)
		bad.Draft.TTL = -1
		s := &script{decide: once(tell(bob, "1"), tell(gone, "2"), bad, tell(bob, "4"), tell(bob, "one too many"))}
		c := w.config(s)
		c.Executor = &converge.ExecutorConfig{Limiter: limiter}
		a := w.run(c)
		if one, two := bob.hear(), bob.hear(); one != "1" || two != "4" {
			t.Errorf("heard %q and %q", one, two)
		}
		time.Sleep(time.Second) // of the bubble: failures are shown after a pause
		if failed := a.Stats().Decisions["send_message"]; failed.Done != 2 || failed.Failed != 3 {
			t.Errorf("counted %+v", failed)
		}
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		failures := s.failures()
		if len(failures) != 3 {
			t.Fatalf("shown %v", failures)
		}
		var limit *ratelimit.LimitError
		got := errors.Join(failures...)
		if !errors.Is(got, transport.ErrUnreachable) || !errors.Is(got, message.ErrDraft) || !errors.As(got, &limit) {
			t.Errorf("shown %v", failures)
		}
	})
}

// TestExecutorWithoutSendAllSendsOneByOne is about executors that are made without a runtime.
func TestExecutorWithoutSendAllSendsOneByOne(t *testing.T) {
	var sent []string
	odd := errors.New("odd")
	e, err := converge.NewStandardExecutor(converge.ExecutorConfig{}, converge.ExecutorEnv{
		Agent: must(parseID("00000000000000000000000000000000000000000000000000000000000000ff")),
		Send: func(_ context.Context, d message.Draft) error {
			if sent = append(sent, string(d.Body)); string(d.Body) == "1" {
				return odd
			}
			return nil
		},
		Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	var drafts []message.Draft
	for i := range 3 {
		drafts = append(drafts, message.Draft{Body: fmt.Append(nil, i)})
	}
	errs := e.SendAll(t.Context(), drafts)
	if len(sent) != 3 || errs[0] != nil || !errors.Is(errs[1], odd) || errs[2] != nil {
		t.Errorf("sent %v, %v", sent, errs)
	}
}
