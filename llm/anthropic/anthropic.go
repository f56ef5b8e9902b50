// Package anthropic speaks the messages interface of Anthropic.
//
// It reads nothing out of the environment but proxies (HTTPS_PROXY and the like): what it is given in [Config] is all that
// it uses. It asks once; who wants it to ask again uses [llm.Retry].
package anthropic

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"

	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/llm/internal/provider"
)

// DefaultBaseURL is Anthropic's own.
const DefaultBaseURL = "https://api.anthropic.com"

// DefaultMaxTokens bounds an answer where the request does not: this interface wants a bound.
const DefaultMaxTokens = 4096

// Config configures a [Provider].
type Config struct {
	Model string // its name at the server; required
	// Endpoint is where the server is, without /v1. A zero BaseURL means DefaultBaseURL, which needs a Key.
	Endpoint llm.Endpoint
}

// Provider implements [llm.Provider]. It is safe for concurrent use.
type Provider struct {
	client *provider.Client
	wire   wire
}

var _ llm.Provider = (*Provider)(nil)

// callTimeout is the SDK's own bound, which would refuse long answers that are no streams. The caller's context bounds
// the call.
const callTimeout = 24 * time.Hour

// New checks the configuration and returns a provider. It connects to nothing.
func New(c Config) (*Provider, error) {
	client, err := provider.New("anthropic", DefaultBaseURL, provider.Config(c))
	if err != nil {
		return nil, err
	}
	options := []option.RequestOption{
		option.WithoutEnvironmentDefaults(), option.WithoutOpenTelemetry(), option.WithBaseURL(client.Endpoint.BaseURL),
		option.WithHTTPClient(client.HTTP), option.WithMaxRetries(0), option.WithRequestTimeout(callTimeout),
	}
	if key := client.Endpoint.Key; !key.IsZero() {
		options = append(options, option.WithAPIKey(key.Reveal()))
	}
	return &Provider{client, wire{client, sdk.NewMessageService(options...)}}, nil
}

// Close closes connections that are not in use.
func (p *Provider) Close() { p.client.Close() }

// Chat implements [llm.Provider].
func (p *Provider) Chat(ctx context.Context, r llm.Request) (llm.Response, error) {
	return p.client.Chat(ctx, p.wire, r)
}

// wire implements [provider.Wire].
type wire struct {
	client   *provider.Client
	messages sdk.MessageService
}

// Whole asks for an answer in one piece.
func (w wire) Whole(ctx context.Context, r llm.Request) (answer llm.Response, err error) {
	m, err := w.messages.New(ctx, w.params(r))
	if err != nil {
		return llm.Response{}, err
	}
	if m == nil {
		return llm.Response{}, fmt.Errorf("%w: it is empty", llm.ErrMalformed)
	}
	for _, block := range m.Content {
		switch block.Type {
		case "text":
			answer.Text += block.Text
		case "tool_use":
			answer.Calls = append(answer.Calls, llm.Call{ID: block.ID, Name: block.Name, Args: string(block.Input)})
		}
	}
	answer.Usage = usageOf(m.Usage.InputTokens, m.Usage.CacheReadInputTokens, m.Usage.CacheCreationInputTokens, m.Usage.OutputTokens)
	answer.Stop, err = stopOf(string(m.StopReason), answer.Calls)
	return answer, err
}

// Stream asks for an answer in pieces.
func (w wire) Stream(ctx context.Context, r llm.Request) (llm.Response, error) {
	stream := w.messages.NewStreaming(ctx, w.params(r))
	if err := stream.Err(); err != nil { // then there is nothing to close
		return llm.Response{}, err
	}
	pieces := pieces{onText: r.OnText}
	if err := provider.Read(stream, pieces.add); err != nil {
		return llm.Response{}, err
	}
	return pieces.answer()
}

// params puts a request into the server's form.
func (w wire) params(r llm.Request) sdk.MessageNewParams {
	params := sdk.MessageNewParams{Model: w.client.Model, MaxTokens: int64(cmp.Or(r.MaxTokens, DefaultMaxTokens))}
	if r.System != "" {
		params.System = []sdk.TextBlockParam{{Text: r.System}}
	}
	for _, m := range r.Messages {
		params.Messages = appendMessage(params.Messages, m)
	}
	for _, t := range r.Tools {
		params.Tools = append(params.Tools, function(t))
	}
	if r.Temperature != nil {
		params.Temperature = param.NewOpt(*r.Temperature)
	}
	return params
}

// appendMessage adds a message in the server's form. Messages of one role that follow each other become one, in which
// results come first, as the server wants them.
func appendMessage(all []sdk.MessageParam, m llm.Message) []sdk.MessageParam {
	role, blocks := sdk.MessageParamRoleUser, []sdk.ContentBlockParamUnion(nil)
	if m.Role == llm.Assistant {
		role = sdk.MessageParamRoleAssistant
	}
	for _, r := range m.Results {
		blocks = append(blocks, sdk.NewToolResultBlock(r.CallID, r.Text, r.Failed))
	}
	if strings.TrimSpace(m.Text) != "" { // the server refuses text without any
		blocks = append(blocks, sdk.NewTextBlock(m.Text))
	}
	for _, c := range m.Calls {
		blocks = append(blocks, sdk.NewToolUseBlock(c.ID, c.Object(), c.Name))
	}
	if len(blocks) == 0 {
		blocks = append(blocks, sdk.NewTextBlock("(nothing)"))
	}
	if last := len(all) - 1; last >= 0 && all[last].Role == role {
		all[last].Content = append(all[last].Content, blocks...)
		return all
	}
	return append(all, sdk.MessageParam{Role: role, Content: blocks})
}

func function(t llm.Tool) sdk.ToolUnionParam {
	f := sdk.ToolParam{Name: t.Name, InputSchema: schemaOf(t.Schema)}
	if t.Description != "" {
		f.Description = param.NewOpt(t.Description)
	}
	return sdk.ToolUnionParam{OfTool: &f}
}

// schemaOf splits a schema as the SDK wants it.
func schemaOf(raw json.RawMessage) sdk.ToolInputSchemaParam {
	s := sdk.ToolInputSchemaParam{Properties: map[string]any{}}
	var schema map[string]any
	if json.Unmarshal(raw, &schema) != nil {
		return s
	}
	for key, value := range schema {
		switch key {
		case "type":
		case "properties":
			s.Properties = value
		case "required":
			s.Required = texts(value)
		default:
			if s.ExtraFields == nil {
				s.ExtraFields = map[string]any{}
			}
			s.ExtraFields[key] = value
		}
	}
	return s
}

func texts(value any) (all []string) {
	list, _ := value.([]any)
	for _, element := range list {
		if text, ok := element.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

func usageOf(input, cacheRead, cacheWritten, output int64) llm.Usage {
	return llm.Usage{Input: int(input + cacheRead + cacheWritten), Output: int(output)}
}

// stopOf reads why the model stopped. Without a reason, the answer is not whole.
func stopOf(reason string, calls []llm.Call) (llm.Stop, error) {
	switch {
	case !llm.IsStop(reason):
		return "", fmt.Errorf("%w: it does not say why it ends", llm.ErrMalformed)
	case reason == "max_tokens", reason == "model_context_window_exceeded":
		return llm.StopLength, nil
	case reason == "refusal":
		return llm.StopRefusal, nil
	case len(calls) > 0:
		return llm.StopCalls, nil
	}
	return llm.StopEnd, nil
}

// Refusal reads an error that the server has sent, with a status or within a stream.
func (w wire) Refusal(err error) *llm.Error {
	refused, ok := errors.AsType[*sdk.Error](err)
	if !ok {
		return nil
	}
	status := refused.StatusCode
	if status/100 == 2 { // the error came within a stream
		status = 0
	}
	var body struct {
		Error struct{ Type, Message string }
	}
	_ = json.Unmarshal([]byte(refused.RawJSON()), &body) // what cannot be read has no code
	return w.client.Endpoint.Refusal(status, provider.HeaderOf(refused.Response), body.Error.Type, body.Error.Message)
}

// Bounds of a stream, beyond that on its bytes.
const maxBlocks = 256

// pieces puts the pieces of a stream together.
type pieces struct {
	onText func(string)
	blocks map[int64]*block
	order  []*block
	reason string
	ended  bool
	input  int64
	cached int64
	output int64
}

type block struct {
	kind, id, name string
	text           strings.Builder // or arguments
	closed         bool
}

func (p *pieces) add(event sdk.MessageStreamEventUnion) error {
	switch event.Type {
	case "message_start":
		u := event.Message.Usage
		p.input, p.cached, p.output = u.InputTokens, u.CacheReadInputTokens+u.CacheCreationInputTokens, u.OutputTokens
	case "content_block_start":
		return p.open(event)
	case "content_block_delta":
		return p.extend(event)
	case "content_block_stop":
		if b := p.blocks[event.Index]; b != nil {
			b.closed = true
		}
	case "message_delta":
		p.reason = cmp.Or(string(event.Delta.StopReason), p.reason)
		p.input = max(p.input, event.Usage.InputTokens)
		p.cached = max(p.cached, event.Usage.CacheReadInputTokens+event.Usage.CacheCreationInputTokens)
		p.output = max(p.output, event.Usage.OutputTokens)
	case "message_stop":
		p.ended = true
	}
	return nil
}

func (p *pieces) open(event sdk.MessageStreamEventUnion) error {
	if p.blocks[event.Index] != nil || len(p.order) == maxBlocks {
		return fmt.Errorf("%w: a block begins twice, or there are more than %d", llm.ErrMalformed, maxBlocks)
	}
	if p.blocks == nil {
		p.blocks = map[int64]*block{}
	}
	b := &block{kind: event.ContentBlock.Type, id: event.ContentBlock.ID, name: event.ContentBlock.Name}
	b.text.WriteString(event.ContentBlock.Text)
	p.blocks[event.Index] = b
	p.order = append(p.order, b)
	return nil
}

func (p *pieces) extend(event sdk.MessageStreamEventUnion) error {
	b := p.blocks[event.Index]
	if b == nil || b.closed {
		return fmt.Errorf("%w: a piece of a block that is not open", llm.ErrMalformed)
	}
	switch event.Delta.Type {
	case "text_delta":
		b.text.WriteString(event.Delta.Text)
		if p.onText != nil && event.Delta.Text != "" {
			p.onText(event.Delta.Text)
		}
	case "input_json_delta":
		b.text.WriteString(event.Delta.PartialJSON)
	}
	return nil
}

func (p *pieces) answer() (answer llm.Response, err error) {
	if !p.ended {
		return llm.Response{}, fmt.Errorf("%w: the stream ends early", llm.ErrMalformed)
	}
	for _, b := range p.order {
		switch b.kind {
		case "text":
			answer.Text += b.text.String()
		case "tool_use":
			answer.Calls = append(answer.Calls, llm.Call{ID: b.id, Name: b.name, Args: cmp.Or(b.text.String(), "{}")})
		}
	}
	answer.Usage = usageOf(p.input, p.cached, 0, p.output)
	answer.Stop, err = stopOf(p.reason, answer.Calls)
	return answer, err
}
