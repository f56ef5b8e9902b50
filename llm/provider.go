package llm

import (
	"context"
	"encoding/json"
	"strings"
)

// Provider is a model behind somebody's interface. It is safe for concurrent use.
type Provider interface {
	// Chat asks the model to go on with a conversation, once: it does not try again. It returns when the answer is
	// whole, whether it came as a stream or not, or when ctx ends. Its errors are of type [*Error], and hold
	// no key.
	Chat(ctx context.Context, r Request) (Response, error)
}

// Request is a conversation so far, and what the model may do next.
type Request struct {
	System      string
	Messages    []Message // begins with one of [User]
	Tools       []Tool
	MaxTokens   int      // of the answer; 0 means the provider's own default
	Temperature *float64 // nil means the model's own
	// Stream has the answer come in pieces, so that a server that falls silent is noticed.
	Stream bool
	// OnText, if set together with Stream, gets each piece of text as it comes. It must not block.
	OnText func(text string)
}

// Role says whose a message is.
type Role uint8

// The roles. What tools have returned is a message of [User] with Results.
const (
	User Role = iota + 1
	Assistant
)

// String returns the name of the role.
func (r Role) String() string {
	switch r {
	case User:
		return "user"
	case Assistant:
		return "assistant"
	}
	return "none"
}

// Message is one step of a conversation.
type Message struct {
	Role    Role     `json:"role"`
	Text    string   `json:"text,omitempty"`
	Calls   []Call   `json:"calls,omitempty"`   // of the assistant
	Results []Result `json:"results,omitempty"` // of the user: one for each call of the message before
}

// Call is a tool call that the model wants made.
type Call struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Args string `json:"args"` // as the model wrote them; they need not be JSON
}

// Object returns the arguments if they are a JSON object, and {} otherwise: servers refuse histories with anything else.
func (c Call) Object() json.RawMessage {
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(c.Args), &object) != nil || object == nil {
		return json.RawMessage("{}")
	}
	return json.RawMessage(c.Args)
}

// Result is what came of a call.
type Result struct {
	CallID string `json:"call_id"`
	Text   string `json:"text"`
	Failed bool   `json:"failed,omitempty"`
}

// Tool is a function that the model may call.
type Tool struct {
	Name        string          `json:"name"` // 1 to 64 letters, digits, '_' and '-'
	Description string          `json:"description,omitempty"`
	Schema      json.RawMessage `json:"schema"` // a JSON Schema of type object
}

// Stop says why the model stopped.
type Stop string

// The reasons to stop.
const (
	StopEnd     Stop = "end"        // it has said what it wanted to say
	StopCalls   Stop = "tool_calls" // it waits for the results of calls
	StopLength  Stop = "length"     // MaxTokens, or the length of its context
	StopRefusal Stop = "refusal"    // it or its provider does not want to answer
)

// Response is what the model answered.
type Response struct {
	Text  string `json:"text,omitempty"`
	Calls []Call `json:"calls,omitempty"`
	Stop  Stop   `json:"stop"`
	Usage Usage  `json:"usage"`
}

// Usage is the tokens of one answer. Input holds those that came out of a cache.
type Usage struct {
	Input  int `json:"input"`
	Output int `json:"output"`
	// Estimated says that the server did not tell, and the numbers are guesses from the length of the text.
	Estimated bool `json:"estimated,omitempty"`
}

// Tokens returns the sum.
func (u Usage) Tokens() int { return u.Input + u.Output }

// bytesPerToken is for guesses, which are to be too high rather than too low.
const bytesPerToken = 3

// EstimateInput guesses the tokens of a request from its length, rather too many than too few.
func EstimateInput(r Request) int {
	n := len(r.System)
	for _, m := range r.Messages {
		n += m.size()
	}
	for _, t := range r.Tools {
		n += len(t.Name) + len(t.Description) + len(t.Schema) + 16
	}
	return n/bytesPerToken + 1
}

// EstimateOutput guesses the tokens of a response from its length.
func EstimateOutput(r Response) int {
	n := len(r.Text)
	for _, c := range r.Calls {
		n += len(c.Name) + len(c.Args) + 16
	}
	return n/bytesPerToken + 1
}

// OrEstimated fills in what a server has not told.
func (u Usage) OrEstimated(r Request, answer Response) Usage {
	if u.Input <= 0 {
		u.Input, u.Estimated = EstimateInput(r), true
	}
	if u.Output <= 0 {
		u.Output, u.Estimated = EstimateOutput(answer), true
	}
	return u
}

// IsStop reports whether a server's reason to stop is a word at all.
func IsStop(reason string) bool {
	return reason != "" && len(reason) <= 64 && strings.Trim(reason, "abcdefghijklmnopqrstuvwxyz_-") == ""
}

// size is the length of a message in bytes, with what goes around it.
func (m Message) size() int {
	n := len(m.Text) + 16
	for _, c := range m.Calls {
		n += len(c.ID) + len(c.Name) + len(c.Args) + 32
	}
	for _, r := range m.Results {
		n += len(r.CallID) + len(r.Text) + 32
	}
	return n
}
