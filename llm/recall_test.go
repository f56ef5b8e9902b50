package llm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/recording"
)

// recallsTo returns ledgers of which the second does again what is done beside the turns of the first.
func recallsTo(day Budget) (first, again *ledger) {
	task := Budget{Calls: 5, Tokens: 5000, ToolCalls: 3, Cost: Unlimited}
	first, again = newLedger(task, day, Price{}), newLedger(task, day, Price{})
	first.doings = &doings{}
	again.doings = &doings{recalls: true, held: map[uint64]reservation{}}
	again.now = func() time.Time { panic("a replay does not go by the clock") }
	return first, again
}

// TestLedgerIsReplayed has calls of the model come back and be tried again while the agent's turns use the same
// ledger, over midnights; what the turns find has to be the same in the replay.
func TestLedgerIsReplayed(t *testing.T) {
	day := Budget{Calls: 200, Tokens: 60_000, ToolCalls: 100, Cost: Unlimited}
	first, again := recallsTo(day)
	var mu sync.Mutex
	now := time.Unix(100*daySeconds-5, 0)
	first.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Duration(rand.N(200)) * time.Second)
		return now
	}
	thought, failures := uint64(0), 0
	for range 200 {
		var calls sync.WaitGroup
		type act struct {
			key     string
			kind, n int
		}
		var acts []act
		var found []string
		turn := func(l *ledger, a act, ask func(r reservation)) string {
			switch a.kind {
			case 0:
				return fmt.Sprint(l.toolCall(a.key))
			case 1:
				l.forget(a.key)
				return ""
			case 2:
				return fmt.Sprint(l.exhausted())
			}
			r, err := l.reserve(a.key, a.n, 500)
			r.thought = thought
			if err == nil {
				ask(r)
			}
			return fmt.Sprint(err)
		}
		began := thought
		for range 10 {
			a := act{fmt.Sprint("task-", rand.N(6)), rand.N(8), rand.N(300)}
			thought++
			acts = append(acts, a)
			found = append(found, turn(first, a, func(r reservation) {
				calls.Go(func() {
					first.settle(r, Usage{Input: rand.N(600), Output: rand.N(300)})
					if more, err := first.reserveAgain(r, 50, 500); err == nil {
						first.settle(more, Usage{Input: 40})
					}
				})
			}))
		}
		if rand.N(2) == 0 {
			calls.Wait()
		}
		again.recall(first.endTurn())
		thought = began
		for i, a := range acts {
			thought++
			if got := turn(again, a, again.hold); got != found[i] {
				t.Fatalf("in the replay, %v gives %s, and it was %s", a, got, found[i])
			}
			if found[i] != "<nil>" && a.kind > 2 {
				failures++
			}
		}
		again.endTurn()
		calls.Wait()
	}
	again.recall(first.endTurn())
	again.endTurn()
	if a, b := first.used, again.used; a != b || failures == 0 {
		t.Errorf("%+v was used, and in the replay %+v; %d were refused", a, b, failures)
	}
}

func TestPastHasNoGaps(t *testing.T) {
	turn := func(number uint64) []byte { return recording.Encode(kept{Turn: &keptTurn{Number: number}}) }
	r := NewRecall()
	if _, err := r.turn(); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("nothing at all: %v", err)
	}
	for _, content := range [][]byte{turn(1), nil, turn(2)} {
		if content != nil && r.Observe(content) != nil {
			t.Fatal("not taken in")
		}
		if _, err := r.turn(); err != nil {
			t.Error(err)
		}
	}
	if err := r.Observe(turn(4)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.turn(); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("3 is missing: %v", err)
	}
}

func TestAnswersAreKeptAsTheyAre(t *testing.T) {
	r := NewRecall()
	want := Response{Text: "a\xffb", Calls: []Call{{ID: "i\x80", Name: "n", Args: "{\xfe"}}, Stop: StopCalls, Usage: Usage{Input: 1, Output: 2, Estimated: true}}
	failed := &Error{Provider: "openai", Reason: ErrOverloaded, Detail: "what the server said"}
	content := keepAnswer(7, 1, Response{}, fmt.Errorf("%w; 5 attempts", failed))
	if bytes.Contains(content, []byte(failed.Detail)) || !bytes.Contains(content, []byte("overloaded")) {
		t.Errorf("a failure is kept as %q", content)
	}
	for _, c := range [][]byte{content, keepAnswer(7, 2, want, nil), keepAnswer(8, 1, Response{Text: strings.Repeat("x", maxKept)}, nil), keepAnswer(9, 1, Response{}, failed)} {
		if err := r.Observe(c); err != nil || len(c) > maxKept {
			t.Fatalf("%d bytes, %v", len(c), err)
		}
	}
	if got, err := r.answer(7); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", got, err)
	}
	for thought, why := range map[uint64]string{8: "larger", 9: "answer 9", 10: "answer 10"} {
		if _, err := r.answer(thought); !errors.Is(err, ErrNotRecorded) || !strings.Contains(err.Error(), why) {
			t.Errorf("%d: %v", thought, err)
		}
	}
	r.forget(9, func(thought uint64) bool { return thought == 8 })
	if len(r.answers) != 1 {
		t.Errorf("%d answers are held that nobody waits for", len(r.answers)-1)
	}
	for _, bad := range [][]byte{nil, {0}, recording.Encode(kept{}), recording.Encode(kept{&keptAnswer{}, &keptTurn{}}), recording.Encode("x")} {
		if r.Observe(bad) == nil {
			t.Errorf("%x is taken in", bad)
		}
	}
}

func FuzzRecall(f *testing.F) {
	f.Add(keepAnswer(1, 1, Response{Text: "x", Calls: []Call{{"a", "b", "{}"}}}, nil))
	f.Add(recording.Encode(kept{Turn: &keptTurn{Number: 1, Taken: []keptThought{{1, recording.NewError(ErrBudget)}}, Budget: []doing{{Day: 3}}}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		r := NewRecall()
		if r.Observe(content) != nil {
			return
		}
		if (r.next == nil) == (len(r.answers) == 0) {
			t.Errorf("%x is taken in as %+v and %v", content, r.next, r.answers)
		}
		_, _ = r.turn()
	})
}
