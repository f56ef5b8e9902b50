package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/tool"
)

// maxErrorText bounds the bytes of a server's text in an error.
const maxErrorText = 1 << 10

// result is the result of a call, as far as it is looked into.
type result struct {
	Content    []json.RawMessage `json:"content"`
	Structured json.RawMessage   `json:"structuredContent"`
	IsError    bool              `json:"isError"`
	Type       string            `json:"resultType"`
}

// output makes an output of what the server sent: structured content as it is; otherwise the text, if there is
// nothing but text; otherwise the list of content blocks, as the protocol writes them.
func output(ctx context.Context, raw json.RawMessage) (tool.Output, error) {
	var r result
	if err := json.Unmarshal(raw, &r); err != nil {
		return tool.Output{}, fmt.Errorf("%w: the result cannot be read", ErrProtocol)
	}
	if r.Type != "" && r.Type != "complete" {
		return tool.Output{}, fmt.Errorf("the server asks for more input, which is refused: result of type %q", visible(r.Type, 64))
	}
	text, onlyText := r.text()
	switch {
	case r.IsError:
		return tool.Output{}, &ResultError{Text: visible(text, maxErrorText)}
	case len(r.Structured) > 0 && string(r.Structured) != "null":
		return within(ctx, r.Structured, "application/json")
	case onlyText:
		return within(ctx, []byte(text), "text/plain")
	default:
		blocks, err := json.Marshal(r.Content)
		if err != nil {
			return tool.Output{}, fmt.Errorf("%w: the content cannot be read", ErrProtocol)
		}
		return within(ctx, blocks, "application/json")
	}
}

// text joins the blocks that are text, by line ends, and reports whether all are.
func (r result) text() (_ string, all bool) {
	var parts []string
	for _, raw := range r.Content {
		var block struct {
			Type string  `json:"type"`
			Text *string `json:"text"`
		}
		if json.Unmarshal(raw, &block) == nil && block.Type == "text" && block.Text != nil {
			parts = append(parts, *block.Text)
		}
	}
	return strings.Join(parts, "\n"), len(parts) == len(r.Content)
}

func within(ctx context.Context, data []byte, contentType string) (tool.Output, error) {
	limit, ok := tool.OutputLimit(ctx)
	if !ok {
		limit = tool.DefaultMaxOutput
	}
	if len(data) > limit {
		return tool.Output{}, fmt.Errorf("%w: %d bytes where at most %d are allowed", tool.ErrOutputTooLarge, len(data), limit)
	}
	return tool.Output{Data: data, ContentType: contentType}, nil
}
