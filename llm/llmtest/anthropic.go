package llmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// anthropic is the wire format of messages.
type anthropic struct{}

type anthropicBlock struct {
	Type, Text, ID, Name string
	Input                json.RawMessage
	ToolUseID            string `json:"tool_use_id"`
	Content              json.RawMessage
	IsError              bool `json:"is_error"`
}

func (anthropic) read(body []byte, h http.Header) (Request, error) {
	var in struct {
		Model    string
		System   json.RawMessage
		Messages []struct {
			Role    string
			Content json.RawMessage
		}
		MaxTokens   int `json:"max_tokens"`
		Temperature *float64
		Stream      bool
		Tools       []struct {
			Name, Description string
			InputSchema       json.RawMessage `json:"input_schema"`
		}
	}
	r := Request{Format: Anthropic, Key: h.Get("x-api-key")}
	if err := json.Unmarshal(body, &in); err != nil {
		return r, err
	}
	r.Model, r.System, r.MaxTokens, r.Temperature, r.Stream = in.Model, textOf(in.System), in.MaxTokens, in.Temperature, in.Stream
	for _, t := range in.Tools {
		r.Tools = append(r.Tools, Tool{t.Name, t.Description, t.InputSchema})
	}
	for i, m := range in.Messages {
		if i > 0 && in.Messages[i-1].Role == m.Role {
			return r, fmt.Errorf("messages.%d: two messages of %s in a row", i, m.Role)
		}
		added, err := messageOf(m.Role, m.Content)
		if err != nil {
			return r, fmt.Errorf("messages.%d: %w", i, err)
		}
		r.Messages = append(r.Messages, added)
	}
	if r.MaxTokens <= 0 {
		return r, fmt.Errorf("max_tokens: required")
	}
	return r, nil
}

func messageOf(role string, content json.RawMessage) (m Message, err error) {
	m.Role = role
	var blocks []anthropicBlock
	if json.Unmarshal(content, &blocks) != nil {
		m.Text = textOf(content)
		return m, nil
	}
	for _, b := range blocks {
		switch b.Type {
		case "text":
			if b.Text == "" {
				return m, fmt.Errorf("text content blocks must be non-empty")
			}
			m.Text += b.Text
		case "tool_use":
			if len(b.Input) == 0 || b.Input[0] != '{' {
				return m, fmt.Errorf("the input of %q is no object", b.Name)
			}
			m.Calls = append(m.Calls, Call{b.ID, b.Name, string(b.Input)})
		case "tool_result":
			if m.Text != "" {
				return m, fmt.Errorf("results have to come before text")
			}
			m.Results = append(m.Results, Result{b.ToolUseID, textOf(b.Content), b.IsError})
		}
	}
	return m, nil
}

func (anthropic) stop(reply Reply) string {
	switch {
	case reply.Stop != "":
		return reply.Stop
	case len(reply.Calls) > 0:
		return "tool_use"
	}
	return "end_turn"
}

func (anthropic) usage(r Request, reply Reply) object {
	if reply.NoUse {
		return object{"input_tokens": 0, "output_tokens": 0}
	}
	input, output := reply.tokens(r)
	return object{"input_tokens": input, "output_tokens": output}
}

func (f anthropic) whole(r Request, reply Reply) string {
	content := []any{}
	if reply.Text != "" {
		content = append(content, object{"type": "text", "text": reply.Text})
	}
	for _, c := range reply.Calls {
		content = append(content, object{"type": "tool_use", "id": c.ID, "name": c.Name, "input": inputOf(c.Args)})
	}
	return encode(object{
		"id": fmt.Sprintf("msg_%d", r.Number), "type": "message", "role": "assistant", "model": r.Model, "content": content,
		"stop_reason": f.stop(reply), "stop_sequence": nil, "usage": f.usage(r, reply),
	})
}

// inputOf returns arguments as the object that they are here, unless a test wants something else.
func inputOf(args string) any {
	if json.Valid([]byte(args)) {
		return json.RawMessage(args)
	}
	return args
}

func (f anthropic) events(r Request, reply Reply) (events []string) {
	add := func(kind string, fields object) {
		fields["type"] = kind
		events = append(events, "event: "+kind+"\ndata: "+encode(fields))
	}
	usage := f.usage(r, reply)
	first := min(usage["output_tokens"].(int), 1)
	add("message_start", object{"message": object{
		"id": fmt.Sprintf("msg_%d", r.Number), "type": "message", "role": "assistant", "model": r.Model, "content": []any{},
		"stop_reason": nil, "stop_sequence": nil, "usage": object{"input_tokens": usage["input_tokens"], "output_tokens": first},
	}})
	add("ping", object{})
	index := 0
	block := func(start object, deltas ...object) {
		add("content_block_start", object{"index": index, "content_block": start})
		for _, d := range deltas {
			add("content_block_delta", object{"index": index, "delta": d})
		}
		add("content_block_stop", object{"index": index})
		index++
	}
	if reply.Text != "" {
		var deltas []object
		for _, piece := range pieces(reply.Text) {
			deltas = append(deltas, object{"type": "text_delta", "text": piece})
		}
		block(object{"type": "text", "text": ""}, deltas...)
	}
	for _, c := range reply.Calls {
		var deltas []object
		for _, piece := range pieces(c.Args) {
			deltas = append(deltas, object{"type": "input_json_delta", "partial_json": piece})
		}
		block(object{"type": "tool_use", "id": c.ID, "name": c.Name, "input": object{}}, deltas...)
	}
	add("message_delta", object{"delta": object{"stop_reason": f.stop(reply), "stop_sequence": nil}, "usage": usage})
	add("message_stop", object{})
	return events
}

func (anthropic) failure(reply Reply) string {
	return encode(object{"type": "error", "error": object{"type": reply.Code, "message": reply.Message}})
}

func (f anthropic) failureEvent(reply Reply) string { return "event: error\ndata: " + f.failure(reply) }
