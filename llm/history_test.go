package llm

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// isValid reports what servers would refuse in a history.
func isValid(messages []Message) error {
	open := map[string]bool{}
	if len(messages) == 0 || messages[0].Role != User || len(messages[0].Results) > 0 {
		return fmt.Errorf("it does not begin with the user")
	}
	for i, m := range messages {
		if len(m.Results) != len(open) {
			return fmt.Errorf("message %d has %d results for %d calls", i, len(m.Results), len(open))
		}
		for _, r := range m.Results {
			if !open[r.CallID] {
				return fmt.Errorf("message %d: a result of no call", i)
			}
			delete(open, r.CallID)
		}
		for _, c := range m.Calls {
			open[c.ID] = true
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("calls without results")
	}
	return nil
}

func TestCompactionKeepsPairsAndFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h history
		h.say(fence("params", strings.Repeat("p", rapid.IntRange(0, 3000).Draw(t, "params")), 4000))
		rounds := rapid.IntRange(0, 12).Draw(t, "rounds")
		for round := range rounds {
			calls, results := []Call(nil), []Result(nil)
			for i := range rapid.IntRange(0, 5).Draw(t, "calls") {
				id := fmt.Sprintf("r%dc%d", round, i)
				calls = append(calls, Call{ID: id, Name: "f", Args: `{"x":"` + strings.Repeat("a", rapid.IntRange(0, 1500).Draw(t, "args")) + `"}`})
				results = append(results, Result{CallID: id, Text: fence("tool", strings.Repeat("r", rapid.IntRange(0, 3000).Draw(t, "result")), 4000)})
			}
			h.messages = append(h.messages, Message{Role: Assistant, Text: "t", Calls: calls})
			if len(results) > 0 {
				h.messages = append(h.messages, Message{Role: User, Results: results})
			}
			if len(results) == 0 || rapid.Bool().Draw(t, "said") {
				h.say("and more")
			}
			const most = 4 << 10
			last := h.messages[len(h.messages)-1]
			h.compact(most)
			if err := isValid(h.messages); err != nil {
				t.Fatal(err)
			}
			if h.size() > most+len(h.messages)*512 {
				t.Fatalf("%d bytes in %d messages", h.size(), len(h.messages))
			}
			if now := h.messages[len(h.messages)-1]; len(now.Results) != len(last.Results) || now.Text != last.Text && len(h.messages) > 1 {
				t.Fatal("the last message is another")
			}
			for _, m := range h.messages {
				for _, text := range append(texts(m.Results), m.Text) {
					if strings.HasPrefix(text, "<<<DATA ") && !strings.HasSuffix(strings.SplitN(text, "\n\n(", 2)[0], ">>>") {
						t.Fatalf("a fence without end: %q", text)
					}
				}
			}
		}
	})
}

func texts(results []Result) (all []string) {
	for _, r := range results {
		all = append(all, r.Text)
	}
	return all
}

func TestCompactionLeavesOutOldResultsFirst(t *testing.T) {
	var h history
	h.say("the task")
	for i := range 3 {
		id := fmt.Sprint(i)
		h.messages = append(h.messages, Message{Role: Assistant, Calls: []Call{{ID: id, Name: "f", Args: "{}"}}},
			Message{Role: User, Results: []Result{{CallID: id, Text: strings.Repeat("x", 1000)}}})
	}
	h.compact(2500)
	if len(h.messages) != 7 || !strings.Contains(h.messages[2].Results[0].Text, "1000 bytes was left out") || len(h.messages[4].Results[0].Text) != 1000 {
		t.Errorf("%+v", h.messages)
	}
	h.compact(1500)
	h.compact(1300)
	if h.dropped == 0 || !strings.Contains(h.messages[0].Text, "earlier steps") || len(h.messages[len(h.messages)-1].Results[0].Text) != 1000 {
		t.Errorf("%+v", h.messages)
	}
}
