package llmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// openAI is the wire format of chat completions.
type openAI struct{}

type openAIMessage struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	ToolCalls []struct {
		ID       string
		Function struct{ Name, Arguments string }
	} `json:"tool_calls"`
	ToolCallID string `json:"tool_call_id"`
}

func (openAI) read(body []byte, h http.Header) (Request, error) {
	var in struct {
		Model               string
		Messages            []openAIMessage
		MaxTokens           int `json:"max_tokens"`
		MaxCompletionTokens int `json:"max_completion_tokens"`
		Temperature         *float64
		Stream              bool
		Tools               []struct {
			Function struct {
				Name, Description string
				Parameters        json.RawMessage
			}
		}
	}
	r := Request{Format: OpenAI, Key: strings.TrimPrefix(h.Get("Authorization"), "Bearer ")}
	if err := json.Unmarshal(body, &in); err != nil {
		return r, err
	}
	r.Model, r.MaxTokens, r.Temperature, r.Stream = in.Model, max(in.MaxTokens, in.MaxCompletionTokens), in.Temperature, in.Stream
	for _, t := range in.Tools {
		r.Tools = append(r.Tools, Tool{t.Function.Name, t.Function.Description, t.Function.Parameters})
	}
	for _, m := range in.Messages {
		r.addOpenAI(m)
	}
	return r, nil
}

// addOpenAI adds a message; results join those before them.
func (r *Request) addOpenAI(m openAIMessage) {
	text := textOf(m.Content)
	switch m.Role {
	case "system", "developer":
		r.System += text
		return
	case "tool":
		last := len(r.Messages) - 1
		if last < 0 || r.Messages[last].Role != "user" || r.Messages[last].Text != "" {
			r.Messages = append(r.Messages, Message{Role: "user"})
			last++
		}
		r.Messages[last].Results = append(r.Messages[last].Results, Result{CallID: m.ToolCallID, Text: text})
		return
	}
	added := Message{Role: m.Role, Text: text}
	for _, c := range m.ToolCalls {
		added.Calls = append(added.Calls, Call{c.ID, c.Function.Name, c.Function.Arguments})
	}
	if last := len(r.Messages) - 1; last >= 0 && added.Role == "user" && r.Messages[last].Role == "user" {
		r.Messages[last].Text += added.Text // as Anthropic's format has it
		return
	}
	r.Messages = append(r.Messages, added)
}

// textOf reads content that is a string or a list of parts.
func textOf(raw json.RawMessage) (text string) {
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var parts []struct{ Text string }
	_ = json.Unmarshal(raw, &parts) // what is neither has no text
	for _, p := range parts {
		text += p.Text
	}
	return text
}

func (openAI) stop(reply Reply) string {
	switch {
	case reply.Stop != "":
		return reply.Stop
	case len(reply.Calls) > 0:
		return "tool_calls"
	}
	return "stop"
}

type object = map[string]any

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own making
	}
	return string(b)
}

func (f openAI) usage(r Request, reply Reply) any {
	if reply.NoUse {
		return nil
	}
	input, output := reply.tokens(r)
	return object{"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}
}

func (f openAI) whole(r Request, reply Reply) string {
	message := object{"role": "assistant", "content": reply.Text}
	var calls []any
	for _, c := range reply.Calls {
		calls = append(calls, object{"id": c.ID, "type": "function", "function": object{"name": c.Name, "arguments": c.Args}})
	}
	if calls != nil {
		message["tool_calls"] = calls
	}
	return encode(object{
		"id": fmt.Sprintf("chatcmpl-%d", r.Number), "object": "chat.completion", "created": 1, "model": r.Model,
		"choices": []any{object{"index": 0, "message": message, "finish_reason": f.stop(reply)}},
		"usage":   f.usage(r, reply),
	})
}

func (f openAI) events(r Request, reply Reply) []string {
	chunk := func(choices any, usage any) string {
		return "data: " + encode(object{
			"id": fmt.Sprintf("chatcmpl-%d", r.Number), "object": "chat.completion.chunk", "created": 1, "model": r.Model,
			"choices": choices, "usage": usage,
		})
	}
	delta := func(d object, reason any) string {
		return chunk([]any{object{"index": 0, "delta": d, "finish_reason": reason}}, nil)
	}
	events := []string{delta(object{"role": "assistant", "content": ""}, nil)}
	if reply.Text != "" {
		for _, piece := range pieces(reply.Text) {
			events = append(events, delta(object{"content": piece}, nil))
		}
	}
	for i, c := range reply.Calls {
		events = append(events, delta(object{"tool_calls": []any{object{
			"index": i, "id": c.ID, "type": "function", "function": object{"name": c.Name, "arguments": ""},
		}}}, nil))
		for _, piece := range pieces(c.Args) {
			events = append(events, delta(object{"tool_calls": []any{object{"index": i, "function": object{"arguments": piece}}}}, nil))
		}
	}
	events = append(events, delta(object{}, f.stop(reply)))
	if usage := f.usage(r, reply); usage != nil {
		events = append(events, chunk([]any{}, usage))
	}
	return append(events, "data: [DONE]")
}

func (openAI) failure(reply Reply) string {
	return encode(object{"error": object{"message": reply.Message, "type": reply.Code, "param": nil, "code": reply.Code}})
}

func (f openAI) failureEvent(reply Reply) string { return "data: " + f.failure(reply) }
