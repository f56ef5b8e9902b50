// Package llmtest is a server that speaks the wire formats of OpenAI's chat completions and of Anthropic's messages, and
// answers what a script says. It is for tests, and for examples that run without a network and a key.
//
// It is strict where the real servers are: a history in which calls and results do not pair up is refused with the
// status 400, and so is a first message that is not the user's. It can misbehave as real servers do: refuse for a
// while, fall silent, cut a stream short, send what is no JSON.
package llmtest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// The wire formats.
const (
	OpenAI    = "openai"
	Anthropic = "anthropic"
)

// Request is what a server was asked, whatever the wire format.
type Request struct {
	Number      int    // of the request, from 1
	Format      string // OpenAI or Anthropic
	Model       string
	System      string
	Messages    []Message
	Tools       []Tool
	MaxTokens   int
	Temperature *float64
	Stream      bool
	Key         string // of the header
	Path        string
	Body        []byte
}

// Message is a step of the conversation. Results of the OpenAI format, which are messages of their own there, are
// gathered in one of the user.
type Message struct {
	Role    string // user or assistant
	Text    string
	Calls   []Call
	Results []Result
}

// Call is a tool call.
type Call struct {
	ID   string // "" in a Reply is given one
	Name string
	Args string // JSON, unless a test wants something else
}

// Result is what came of a call.
type Result struct {
	CallID string
	Text   string
	Failed bool // only known with Anthropic
}

// Tool is a function that the model may call.
type Tool struct {
	Name        string
	Description string
	Schema      json.RawMessage
}

// Has reports whether the request offers a tool of that name.
func (r Request) Has(tool string) bool {
	for _, t := range r.Tools {
		if t.Name == tool {
			return true
		}
	}
	return false
}

// Last returns the last message.
func (r Request) Last() Message {
	if len(r.Messages) == 0 {
		return Message{}
	}
	return r.Messages[len(r.Messages)-1]
}

// Text returns all text of the conversation: of messages and results.
func (r Request) Text() string {
	var b strings.Builder
	for _, m := range r.Messages {
		b.WriteString(m.Text + "\n")
		for _, result := range m.Results {
			b.WriteString(result.Text + "\n")
		}
	}
	return b.String()
}

// Rounds returns how many times the assistant has spoken.
func (r Request) Rounds() (n int) {
	for _, m := range r.Messages {
		if m.Role == "assistant" {
			n++
		}
	}
	return n
}

// Reply is what the server answers, or how it fails. The zero Reply ends the conversation without a word.
type Reply struct {
	Text   string
	Calls  []Call
	Stop   string // in the words of the wire format; "" is that of an answer like this
	Input  int    // tokens; 0 is one for each four bytes of the request
	Output int    // tokens; 0 is one for each four bytes of the answer
	NoUse  bool   // the server does not tell the tokens

	Status       int    // above 299 for an error
	Code         string // of the error, such as overloaded_error
	Message      string // of the error
	RetryAfter   string // the header of that name
	RetryAfterMS string // the header retry-after-ms
	Location     string // the header of that name, for redirects

	Delay     time.Duration // before the answer; the end of the request ends it
	Hang      bool          // never answer, until the request ends
	Raw       string        // the body in place of a proper one
	CutAfter  int           // of a stream: end the connection after so many events; 0 is not at all
	FailAfter int           // of a stream: send an error event with Code after so many events; 0 is not at all
	HangAfter int           // of a stream: fall silent after so many events; 0 is not at all
}

// Script says what to answer. It may be called by several requests at once.
type Script func(Request) Reply

// Rule is an answer for requests of some kind.
type Rule struct {
	Contains string             // text that the last message or one of its results has to hold; "" is any
	System   string             // text that the system prompt has to hold; "" is any
	When     func(Request) bool // nil is always
	Times    int                // how often the rule applies; 0 is any number of times
	Reply    Reply
}

// Rules answers by the first rule that applies, and with the status 400 if none does.
func Rules(rules ...Rule) Script {
	var mu sync.Mutex
	used := make([]int, len(rules))
	return func(r Request) Reply {
		mu.Lock()
		defer mu.Unlock()
		for i, rule := range rules {
			if rule.Times > 0 && used[i] == rule.Times || !rule.matches(r) {
				continue
			}
			used[i]++
			return rule.Reply
		}
		return Reply{Status: http.StatusBadRequest, Code: "invalid_request_error", Message: "no rule of the script applies"}
	}
}

func (rule Rule) matches(r Request) bool {
	text := r.Last().Text
	for _, result := range r.Last().Results {
		text += "\n" + result.Text
	}
	return strings.Contains(text, rule.Contains) && strings.Contains(r.System, rule.System) && (rule.When == nil || rule.When(r))
}

// Sequence answers with one reply after the other, and with the last one from then on.
func Sequence(replies ...Reply) Script {
	var mu sync.Mutex
	next := 0
	return func(Request) Reply {
		mu.Lock()
		defer mu.Unlock()
		reply := replies[min(next, len(replies)-1)]
		next++
		return reply
	}
}

// Server is a server on a free port of the loopback interface.
type Server struct {
	*Handler
	http *httptest.Server
}

// New starts a server. Close it.
func New(script Script) *Server {
	h := NewHandler(script)
	return &Server{h, httptest.NewServer(h)}
}

// OpenAI returns the base URL for clients of OpenAI's format.
func (s *Server) OpenAI() string { return s.http.URL + "/v1" }

// Anthropic returns the base URL for clients of Anthropic's format.
func (s *Server) Anthropic() string { return s.http.URL }

// Close ends all requests and the server.
func (s *Server) Close() {
	s.http.CloseClientConnections()
	s.http.Close()
}

// maxRecorded bounds the requests that are kept; the oldest go first.
const maxRecorded = 10_000

// Handler serves both wire formats: OpenAI's at …/chat/completions and Anthropic's at …/messages. It is safe for
// concurrent use.
type Handler struct {
	script Script

	mu       sync.Mutex
	number   int
	requests []Request
}

// NewHandler returns a handler.
func NewHandler(script Script) *Handler { return &Handler{script: script} }

// Requests returns the requests so far, in the order in which they came.
func (h *Handler) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Request(nil), h.requests...)
}

const maxBody = 64 << 20

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var format wire
	switch {
	case r.Method != http.MethodPost:
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	case strings.HasSuffix(r.URL.Path, "/chat/completions"):
		format = openAI{}
	case strings.HasSuffix(r.URL.Path, "/messages"):
		format = anthropic{}
	default:
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return
	}
	request, err := format.read(body, r.Header)
	if err == nil {
		err = check(request)
	}
	request.Path, request.Body = r.URL.Path, body
	h.record(&request)
	reply := Reply{Status: http.StatusBadRequest, Code: "invalid_request_error"}
	if err != nil {
		reply.Message = err.Error()
	} else {
		reply = h.script(request)
	}
	answer(w, r, format, request, reply)
}

func (h *Handler) record(r *Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	r.Number = h.number
	if len(h.requests) == maxRecorded {
		h.requests = h.requests[1:]
	}
	h.requests = append(h.requests, *r)
}
