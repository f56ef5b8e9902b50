package llmtest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/converge-agents/converge/llm/llmtest"
)

func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, _ := io.ReadAll(r.Body) // what was cut short is what there is
	return r.StatusCode, string(data)
}

func ExampleRules() {
	s := llmtest.New(llmtest.Rules(
		llmtest.Rule{Contains: "weather", Reply: llmtest.Reply{Calls: []llmtest.Call{{Name: "look_outside", Args: "{}"}}}},
		llmtest.Rule{Reply: llmtest.Reply{Text: "I do not know"}},
	))
	defer s.Close()
	r, err := http.Post(s.OpenAI()+"/chat/completions", "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"weather?"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	fmt.Println(r.StatusCode, s.Requests()[0].Last().Text)
	// Output: 200 weather?
}

// Histories that real servers refuse are refused, so that tests notice.
func TestInvalidHistoriesAreRefused(t *testing.T) {
	s := llmtest.New(llmtest.Sequence(llmtest.Reply{Text: "fine"}))
	defer s.Close()
	call := `{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}`
	use := `{"type":"tool_use","id":"a","name":"f","input":{}}`
	for body, want := range map[string]int{
		`{"messages":[{"role":"user","content":"x"}]}`: 200,
		`{"messages":[]}`: 400,
		`{"messages":[{"role":"assistant","content":"x"}]}`:                                                                                              400,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[` + call + `]}]}`:                                                  400,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[` + call + `]},{"role":"user","content":"y"}]}`:                    400,
		`{"messages":[{"role":"user","content":"x"},{"role":"tool","tool_call_id":"a","content":"y"}]}`:                                                  400,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[` + call + `]},{"role":"tool","tool_call_id":"b","content":"y"}]}`: 400,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[` + call + `]},{"role":"tool","tool_call_id":"a","content":"y"}]}`: 200,
		`{"messages":[{"role":"user","content":"x"}],"tools":[{"function":{"name":"a.b"}}]}`:                                                             400,
		`{"messages":`: 400,
	} {
		if status, answer := post(t, s.OpenAI()+"/chat/completions", body); status != want {
			t.Errorf("OpenAI: %s: %d %s", body, status, answer)
		}
	}
	for body, want := range map[string]int{
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"}]}`:                                                                                                                     200,
		`{"messages":[{"role":"user","content":"x"}]}`:                                                                                                                                    400,
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"user","content":"y"}]}`:                                                                                       400,
		`{"max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":""}]}]}`:                                                                                             400,
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[` + use + `]}]}`:                                                                        400,
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[` + use + `]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]}`:   200,
		`{"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":"{}"}]},{"role":"user","content":"y"}]}`: 400,
	} {
		if status, answer := post(t, s.Anthropic()+"/v1/messages", body); status != want {
			t.Errorf("Anthropic: %s: %d %s", body, status, answer)
		}
	}
}

func TestOtherRequestsAreRefused(t *testing.T) {
	s := llmtest.New(llmtest.Sequence(llmtest.Reply{}))
	defer s.Close()
	if status, _ := post(t, s.Anthropic()+"/elsewhere", "{}"); status != http.StatusNotFound {
		t.Errorf("%d", status)
	}
	r, err := http.Get(s.OpenAI() + "/chat/completions")
	if err != nil {
		t.Fatal(err)
	}
	if r.Body.Close(); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%d", r.StatusCode)
	}
}

func TestRulesApplySoManyTimesAndSequencesEnd(t *testing.T) {
	rules := llmtest.Rules(llmtest.Rule{Times: 2, Reply: llmtest.Reply{Text: "a"}}, llmtest.Rule{System: "s", Reply: llmtest.Reply{Text: "b"}})
	sequence := llmtest.Sequence(llmtest.Reply{Text: "1"}, llmtest.Reply{Text: "2"})
	got := ""
	for range 3 {
		got += rules(llmtest.Request{System: "s"}).Text + sequence(llmtest.Request{}).Text
	}
	if got != "a1a2b2" {
		t.Error(got)
	}
	if r := rules(llmtest.Request{}); r.Status != 400 {
		t.Errorf("%+v", r)
	}
}
