package llm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/llm/anthropic"
	"github.com/converge-agents/converge/llm/llmtest"
	"github.com/converge-agents/converge/llm/openai"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const testKey = "sk-test-0123456789abcdefSECRET"

// closer is a provider of these tests.
type closer interface {
	llm.Provider
	Close()
}

// formats are the implementations, each with a way to reach a server of llmtest.
var formats = map[string]func(t *testing.T, base string, e llm.Endpoint) closer{
	llmtest.OpenAI: func(t *testing.T, base string, e llm.Endpoint) closer {
		e.BaseURL = base + "/v1"
		p, err := openai.New(openai.Config{Model: "m", Endpoint: e})
		if err != nil {
			t.Fatal(err)
		}
		return p
	},
	llmtest.Anthropic: func(t *testing.T, base string, e llm.Endpoint) closer {
		e.BaseURL = base
		p, err := anthropic.New(anthropic.Config{Model: "m", Endpoint: e})
		if err != nil {
			t.Fatal(err)
		}
		return p
	},
}

// eachWay runs a test for both formats, with and without streaming.
func eachWay(t *testing.T, script llmtest.Script, e llm.Endpoint, test func(t *testing.T, p llm.Provider, s *llmtest.Server, stream bool)) {
	t.Helper()
	for name, make := range formats {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream=%v", name, stream), func(t *testing.T) {
				t.Parallel()
				s := llmtest.New(script)
				defer s.Close()
				p := make(t, s.Anthropic(), e)
				defer p.Close()
				test(t, p, s, stream)
			})
		}
	}
}

var withKey = llm.Endpoint{Key: llm.NewKey(testKey)}

// history is one in which everything occurs.
func history(stream bool) llm.Request {
	warm := 0.5
	return llm.Request{
		System: "be brief",
		Messages: []llm.Message{
			{Role: llm.User, Text: "hello"},
			{Role: llm.Assistant, Text: "let me see", Calls: []llm.Call{{ID: "a", Name: "look", Args: `{"at":"x"}`}, {ID: "b", Name: "look", Args: `no json`}}},
			{Role: llm.User, Results: []llm.Result{{CallID: "a", Text: "it is blue"}, {CallID: "b", Text: "bad", Failed: true}}},
			{Role: llm.User, Text: "and?"},
		},
		Tools:     []llm.Tool{{Name: "look", Description: "looks", Schema: json.RawMessage(`{"type":"object","properties":{"at":{"type":"string"}},"required":["at"],"additionalProperties":false}`)}},
		MaxTokens: 77, Temperature: &warm, Stream: stream,
	}
}

func TestProvidersAskAndAnswer(t *testing.T) {
	t.Parallel()
	reply := llmtest.Reply{
		Text: "a long enough text, with ünicode, to be cut in pieces", Input: 11, Output: 7,
		Calls: []llmtest.Call{{ID: "x", Name: "look", Args: `{"at":"the sea, which is far"}`}, {ID: "y", Name: "look", Args: `{}`}},
	}
	eachWay(t, func(llmtest.Request) llmtest.Reply { return reply }, withKey, func(t *testing.T, p llm.Provider, s *llmtest.Server, stream bool) {
		r := history(stream)
		var heard strings.Builder
		r.OnText = func(text string) { heard.WriteString(text) }
		answer, err := p.Chat(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Text != reply.Text || answer.Stop != llm.StopCalls || answer.Usage != (llm.Usage{Input: 11, Output: 7}) {
			t.Errorf("answer: %+v", answer)
		}
		if len(answer.Calls) != 2 || answer.Calls[0] != (llm.Call{ID: "x", Name: "look", Args: `{"at":"the sea, which is far"}`}) || answer.Calls[1].ID != "y" {
			t.Errorf("calls: %+v", answer.Calls)
		}
		if stream && heard.String() != reply.Text {
			t.Errorf("heard %q", heard.String())
		}
		asked := s.Requests()[0]
		if asked.Key != testKey || asked.Model != "m" || asked.System != "be brief" || asked.MaxTokens != 77 || *asked.Temperature != 0.5 || asked.Stream != stream {
			t.Errorf("asked: %+v", asked)
		}
		if len(asked.Tools) != 1 || !strings.Contains(string(asked.Tools[0].Schema), `"additionalProperties":false`) || !strings.Contains(string(asked.Tools[0].Schema), `"required":["at"]`) {
			t.Errorf("tools: %s", asked.Tools[0].Schema)
		}
		if n := len(asked.Messages); n != 3 {
			t.Fatalf("%d messages", n)
		}
		if calls := asked.Messages[1].Calls; calls[0].Args != `{"at":"x"}` || calls[1].Args != "{}" {
			t.Errorf("calls of the history: %+v", calls)
		}
		if last := asked.Messages[2]; last.Text != "and?" || last.Results[0].Text != "it is blue" || last.Results[1].CallID != "b" {
			t.Errorf("results of the history: %+v", last)
		}
	})
}

func TestStopReasons(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		openAI, anthropic string
		want              llm.Stop
	}{
		{"stop", "end_turn", llm.StopEnd},
		{"length", "max_tokens", llm.StopLength},
		{"content_filter", "refusal", llm.StopRefusal},
	} {
		script := func(r llmtest.Request) llmtest.Reply {
			if r.Format == llmtest.OpenAI {
				return llmtest.Reply{Text: "x", Stop: c.openAI}
			}
			return llmtest.Reply{Text: "x", Stop: c.anthropic}
		}
		t.Run(string(c.want), func(t *testing.T) {
			eachWay(t, script, withKey, func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
				answer, err := p.Chat(t.Context(), history(stream))
				if err != nil || answer.Stop != c.want {
					t.Errorf("%v, %v", answer.Stop, err)
				}
			})
		})
	}
}

func TestUsageIsGuessedWhereTheServerDoesNotTell(t *testing.T) {
	t.Parallel()
	eachWay(t, llmtest.Sequence(llmtest.Reply{Text: strings.Repeat("word ", 30), NoUse: true}), withKey,
		func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
			answer, err := p.Chat(t.Context(), history(stream))
			if err != nil || !answer.Usage.Estimated || answer.Usage.Output < 30 || answer.Usage.Input < 20 {
				t.Errorf("%+v, %v", answer.Usage, err)
			}
		})
}

func TestServersErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply     llmtest.Reply
		want      error
		after     time.Duration
		temporary bool
	}{
		"rate limit, seconds":      {llmtest.Reply{Status: 429, Code: "rate_limit_error", RetryAfter: "7"}, llm.ErrRateLimited, 7 * time.Second, true},
		"rate limit, milliseconds": {llmtest.Reply{Status: 429, Code: "rate_limit_error", RetryAfter: "7", RetryAfterMS: "250"}, llm.ErrRateLimited, 250 * time.Millisecond, true},
		"rate limit, nonsense":     {llmtest.Reply{Status: 429, Code: "x", RetryAfter: "soon"}, llm.ErrRateLimited, 0, true},
		"rate limit, negative":     {llmtest.Reply{Status: 429, Code: "x", RetryAfter: "-5"}, llm.ErrRateLimited, 0, true},
		"rate limit, NaN":          {llmtest.Reply{Status: 429, Code: "x", RetryAfter: "NaN"}, llm.ErrRateLimited, 0, true},
		"rate limit, for ever":     {llmtest.Reply{Status: 429, Code: "x", RetryAfter: "1e300"}, llm.ErrRateLimited, 24 * time.Hour, true},
		"out of money":             {llmtest.Reply{Status: 429, Code: "insufficient_quota"}, llm.ErrRateLimited, 0, false},
		"server":                   {llmtest.Reply{Status: 500, Code: "api_error"}, llm.ErrServer, 0, true},
		"unavailable":              {llmtest.Reply{Status: 503, Code: "api_error"}, llm.ErrOverloaded, 0, true},
		"overloaded":               {llmtest.Reply{Status: 529, Code: "overloaded_error"}, llm.ErrOverloaded, 0, true},
		"no such model":            {llmtest.Reply{Status: 404, Code: "model_not_found", Message: "no model m"}, llm.ErrRefused, 0, false},
		"html instead of JSON":     {llmtest.Reply{Status: 502, Raw: "<html>bad gateway</html>"}, llm.ErrServer, 0, true},
		"redirect":                 {llmtest.Reply{Status: 307, Location: "/v1/elsewhere/messages"}, llm.ErrRefused, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, llmtest.Sequence(c.reply), withKey, func(t *testing.T, p llm.Provider, s *llmtest.Server, stream bool) {
				_, err := p.Chat(t.Context(), history(stream))
				failed, ok := errors.AsType[*llm.Error](err)
				if !ok || !errors.Is(err, c.want) || failed.RetryAfter != c.after || failed.Temporary() != c.temporary {
					t.Errorf("%#v", err)
				}
				if n := len(s.Requests()); n != 1 {
					t.Errorf("%d requests, where the SDK was to ask once", n)
				}
			})
		})
	}
}

func TestKeyEchoedByTheServerStaysHidden(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]llmtest.Reply{
		"in a message":         {Status: 401, Code: "invalid_api_key", Message: "Incorrect API key provided: " + testKey},
		"in a code":            {Status: 401, Code: testKey, Message: "no"},
		"in part":              {Status: 401, Code: "invalid_api_key", Message: "Incorrect API key provided: sk-test-0123****SECRET"},
		"in capitals":          {Status: 400, Code: "x", Message: strings.ToUpper(testKey)},
		"in what is no JSON":   {Status: 500, Raw: "key " + testKey + " broke me"},
		"in a broken answer":   {Raw: `{"choices": ` + testKey},
		"in a stream's error":  {Text: "some text to have events", FailAfter: 2, Code: testKey, Message: testKey},
		"in a redirect":        {Status: 302, Location: "https://127.0.0.1:1/" + testKey},
		"in a broken envelope": {Status: 400, Raw: `{"error": "` + testKey + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, llmtest.Sequence(reply), withKey, func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
				_, err := p.Chat(t.Context(), history(stream))
				if err == nil && !stream && reply.FailAfter > 0 {
					return // there is no stream
				}
				failed, ok := errors.AsType[*llm.Error](err)
				if !ok {
					t.Fatalf("%v", err)
				}
				for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err), failed.Code, failed.Detail, fmt.Sprint(failed.Err)} {
					if strings.Contains(strings.ToLower(text), "secret") || strings.Contains(strings.ToLower(text), "sk-test") {
						t.Errorf("the key shows: %s", text)
					}
				}
			})
		})
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	t.Parallel()
	key := llm.NewKey(" " + testKey + "\n")
	encoded, _ := json.Marshal(struct{ K llm.Key }{key})
	for _, text := range []string{
		fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q %x %d", key, key, key, key, key, key, key), string(encoded),
		fmt.Sprintf("%+v %#v", llm.Endpoint{Key: key}, &llm.Endpoint{Key: key}), key.LogValue().String(),
	} {
		if strings.Contains(text, "SECRET") || strings.Contains(text, fmt.Sprintf("%x", "SECRET")) {
			t.Errorf("the key shows: %s", text)
		}
	}
	if key.Reveal() != testKey {
		t.Error("Reveal does not return the key")
	}
}

func TestBrokenAnswersAreErrors(t *testing.T) {
	t.Parallel()
	long := llmtest.Reply{Text: strings.Repeat("many words ", 20)}
	cut, silent := long, long
	cut.CutAfter, silent.HangAfter = 5, 5
	for name, c := range map[string]struct {
		reply      llmtest.Reply
		streamOnly bool
		want       error
	}{
		"no JSON":           {llmtest.Reply{Raw: "hello"}, false, llm.ErrMalformed},
		"another JSON":      {llmtest.Reply{Raw: `[1,2,3]`}, false, llm.ErrMalformed},
		"null":              {llmtest.Reply{Raw: `null`}, false, llm.ErrMalformed},
		"no choices":        {llmtest.Reply{Raw: `{"choices":[],"content":[]}`}, false, llm.ErrMalformed},
		"wrong types":       {llmtest.Reply{Raw: `{"choices":{"a":1},"content":"x","stop_reason":{}}`}, false, llm.ErrMalformed},
		"events of nothing": {llmtest.Reply{Raw: "data: {}\n\nevent: message_stop\ndata: {}\n\n"}, true, llm.ErrMalformed},
		"done at once":      {llmtest.Reply{Raw: "data: [DONE]\n\n"}, true, llm.ErrMalformed},
		"a piece of no block": {llmtest.Reply{
			Raw: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":7,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
		}, true, llm.ErrMalformed},
		"cut short":   {cut, true, llm.ErrMalformed},
		"falls quiet": {silent, true, llm.ErrTimeout},
		"never comes": {llmtest.Reply{Hang: true}, false, llm.ErrTimeout},
		"too large":   {llmtest.Reply{Text: strings.Repeat("x", 25_000)}, false, llm.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := withKey
			endpoint.MaxResponse = 20_000
			if c.want == llm.ErrTimeout {
				endpoint.Silence = 300 * time.Millisecond
			}
			eachWay(t, llmtest.Sequence(c.reply), endpoint, func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
				answer, err := p.Chat(t.Context(), history(stream))
				if c.streamOnly && !stream && c.reply.Raw == "" {
					return
				}
				if !errors.Is(err, c.want) {
					t.Errorf("%+v, %v", answer, err)
				}
			})
		})
	}
}

func TestStreamsErrorEvent(t *testing.T) {
	t.Parallel()
	reply := llmtest.Reply{Text: strings.Repeat("many words ", 20), FailAfter: 3, Code: "overloaded_error", Message: "too much"}
	eachWay(t, llmtest.Sequence(reply), withKey, func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
		if _, err := p.Chat(t.Context(), history(stream)); stream && !errors.Is(err, llm.ErrOverloaded) {
			t.Errorf("%v", err)
		}
	})
}

func TestCallEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	eachWay(t, llmtest.Sequence(llmtest.Reply{Hang: true}), withKey, func(t *testing.T, p llm.Provider, _ *llmtest.Server, stream bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := p.Chat(ctx, history(stream)); !errors.Is(err, llm.ErrTimeout) {
			t.Errorf("deadline: %v", err)
		}
		cancelled, stop := context.WithCancelCause(t.Context())
		stop(errors.New("no longer wanted"))
		if _, err := p.Chat(cancelled, history(stream)); !errors.Is(err, llm.ErrCancelled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestUnreachableServersAreNamed(t *testing.T) {
	t.Parallel()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer secure.Close()
	for url, want := range map[string]string{
		"http://127.0.0.1:1":  "not reachable: no connection to 127.0.0.1:1",
		"http://no.invalid:1": "not reachable: no connection to no.invalid:1",
		secure.URL:            "no trust in the certificate of " + strings.TrimPrefix(secure.URL, "https://"),
	} {
		for name, make := range formats {
			p := make(t, url, llm.Endpoint{})
			if _, err := p.Chat(t.Context(), history(false)); !errors.Is(err, llm.ErrUnreachable) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v", name, url, err)
			}
			p.Close()
		}
	}
}

// A redirect would carry the key of Anthropic's header to wherever it leads.
func TestKeyDoesNotFollowARedirect(t *testing.T) {
	t.Parallel()
	for name, make := range formats {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			thief := llmtest.New(llmtest.Sequence(llmtest.Reply{Text: "thanks"}))
			defer thief.Close()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, strings.Replace(thief.Anthropic(), "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
			}))
			defer server.Close()
			p := make(t, server.URL, withKey)
			defer p.Close()
			if _, err := p.Chat(t.Context(), history(false)); !errors.Is(err, llm.ErrRefused) {
				t.Errorf("%v", err)
			}
			if got := thief.Requests(); len(got) != 0 {
				t.Errorf("the thief has the key %q", got[0].Key)
			}
		})
	}
}

func TestEnvironmentDoesNotCount(t *testing.T) {
	for _, name := range []string{"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"} {
		t.Setenv(name, "sk-from-the-environment")
	}
	for _, name := range []string{"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	for name, make := range formats {
		s := llmtest.New(llmtest.Sequence(llmtest.Reply{Text: "hi"}))
		p := make(t, s.Anthropic(), llm.Endpoint{})
		if _, err := p.Chat(t.Context(), history(false)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, r := range s.Requests() {
			if r.Key != "" {
				t.Errorf("%s: the key %q", name, r.Key)
			}
		}
		p.Close()
		s.Close()
	}
	if _, err := openai.New(openai.Config{Model: "m"}); !errors.Is(err, llm.ErrNoKey) {
		t.Errorf("openai without a key: %v", err)
	}
	if _, err := anthropic.New(anthropic.Config{Model: "m"}); !errors.Is(err, llm.ErrNoKey) {
		t.Errorf("anthropic without a key: %v", err)
	}
}

func TestEndpointsThatAreRefused(t *testing.T) {
	t.Parallel()
	for url, key := range map[string]string{
		"http://models.example.org/v1":         testKey, // in the clear
		"https://user:pass@models.example.org": testKey,
		"https://models.example.org?key=x":     testKey,
		"ftp://models.example.org":             "",
		"models.example.org":                   "",
		"https://models.example.org":           "two words",
	} {
		_, err := openai.New(openai.Config{Model: "m", Endpoint: llm.Endpoint{BaseURL: url, Key: llm.NewKey(key)}})
		if err == nil || strings.Contains(err.Error(), "pass") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := (llm.Endpoint{BaseURL: "http://models.example.org/v1", Key: llm.NewKey(testKey), PlaintextUnsafe: true}).Check(); err != nil {
		t.Errorf("in the clear, as asked for: %v", err)
	}
	for _, url := range []string{"http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost/v1", "https://models.example.org/v1"} {
		if _, err := openai.New(openai.Config{Model: "m", Endpoint: llm.Endpoint{BaseURL: url, Key: llm.NewKey(testKey)}}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// Servers that call themselves compatible give all calls of a stream the same index, or none an ID.
func TestStreamsOfCompatibleServers(t *testing.T) {
	t.Parallel()
	raw := `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"one","arguments":"{}"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"two","arguments":"{\"x\""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":5,"function":{"name":"three","arguments":"{}"}}]},"finish_reason":"stop"}]}

data: [DONE]

`
	s := llmtest.New(llmtest.Sequence(llmtest.Reply{Raw: raw}))
	defer s.Close()
	p := formats[llmtest.OpenAI](t, s.Anthropic(), withKey)
	defer p.Close()
	answer, err := p.Chat(t.Context(), history(true))
	want := []llm.Call{{ID: "a", Name: "one", Args: "{}"}, {ID: "b", Name: "two", Args: `{"x":1}`}, {ID: "call_2", Name: "three", Args: "{}"}}
	if err != nil || answer.Stop != llm.StopCalls || fmt.Sprint(answer.Calls) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", answer, err)
	}
}

// Whatever a server sends, there is an answer or an error of ours, and no panic.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"choices":[{"message":{"content":"x","tool_calls":[{"id":"a","function":{"name":"n","arguments":"{"}}]},"finish_reason":"stop"}]}`))
	f.Add([]byte(`{"content":[{"type":"tool_use","id":"a","name":"n","input":null}],"stop_reason":"tool_use","usage":{"input_tokens":-5}}`))
	f.Add([]byte("event: message_start\ndata: {\"type\":\"message_start\",\"message\":null}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":-1,\"content_block\":{\"type\":\"tool_use\"}}\n\nevent: message_stop\ndata: {}\n\n"))
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":-1}]}}]}\n\ndata: [DONE]\n\n"))
	f.Add([]byte("event: error\ndata: nonsense\n\n"))
	var raw []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "application/json")
		w.Write(raw)
	}))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, data []byte) {
		raw = data
		for name, make := range formats {
			p := make(t, server.URL, withKey)
			for _, stream := range []bool{false, true} {
				answer, err := p.Chat(t.Context(), history(stream))
				if failed, ok := errors.AsType[*llm.Error](err); err != nil && (!ok || failed.Reason == nil) {
					t.Errorf("%s: %v", name, err)
				}
				if err == nil && (answer.Stop == "" || answer.Usage.Tokens() <= 0) {
					t.Errorf("%s: %+v", name, answer)
				}
			}
			p.Close()
		}
	})
}
