// Package openai speaks the chat completions interface of OpenAI, which Mistral, Ollama, vLLM and many others speak
// too.
//
// It reads nothing out of the environment but proxies (HTTPS_PROXY and the like): what it is given in [Config] is all that
// it uses. It asks once; who wants it to ask again uses [llm.Retry].
package openai

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/shared"

	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/llm/internal/provider"
)

// DefaultBaseURL is OpenAI's own.
const DefaultBaseURL = "https://api.openai.com/v1"

// Config configures a [Provider].
type Config struct {
	Model string // its name at the server; required
	// Endpoint is where the server is. A zero BaseURL means DefaultBaseURL, which needs a Key.
	Endpoint llm.Endpoint
}

// Provider implements [llm.Provider]. It is safe for concurrent use.
type Provider struct {
	client *provider.Client
	wire   wire
}

var _ llm.Provider = (*Provider)(nil)

// New checks the configuration and returns a provider. It connects to nothing.
func New(c Config) (*Provider, error) {
	client, err := provider.New("openai", DefaultBaseURL, provider.Config(c))
	if err != nil {
		return nil, err
	}
	options := []option.RequestOption{
		option.WithBaseURL(client.Endpoint.BaseURL), option.WithHTTPClient(client.HTTP), option.WithMaxRetries(0),
	}
	if key := client.Endpoint.Key; !key.IsZero() {
		options = append(options, option.WithAPIKey(key.Reveal()))
	}
	return &Provider{client, wire{client, sdk.NewChatCompletionService(options...)}}, nil
}

// Close closes connections that are not in use.
func (p *Provider) Close() { p.client.Close() }

// Chat implements [llm.Provider].
func (p *Provider) Chat(ctx context.Context, r llm.Request) (llm.Response, error) {
	return p.client.Chat(ctx, p.wire, r)
}

// wire implements [provider.Wire].
type wire struct {
	client *provider.Client
	chat   sdk.ChatCompletionService
}

// Whole asks for an answer in one piece.
func (w wire) Whole(ctx context.Context, r llm.Request) (answer llm.Response, err error) {
	completion, err := w.chat.New(ctx, w.params(r))
	if err != nil {
		return llm.Response{}, err
	}
	if completion == nil || len(completion.Choices) == 0 {
		return llm.Response{}, fmt.Errorf("%w: it has no choices", llm.ErrMalformed)
	}
	choice := completion.Choices[0]
	answer.Text = cmp.Or(choice.Message.Content, choice.Message.Refusal)
	for i, c := range choice.Message.ToolCalls {
		answer.Calls = append(answer.Calls, llm.Call{ID: c.ID, Name: c.Function.Name, Args: c.Function.Arguments})
		answer.Calls[i].ID = cmp.Or(c.ID, fmt.Sprintf("call_%d", i))
	}
	answer.Usage = usageOf(completion.Usage)
	answer.Stop, err = stopOf(choice.FinishReason, choice.Message.Refusal != "", answer.Calls)
	return answer, err
}

// Stream asks for an answer in pieces.
func (w wire) Stream(ctx context.Context, r llm.Request) (llm.Response, error) {
	params := w.params(r)
	params.StreamOptions.IncludeUsage = param.NewOpt(true)
	pieces := pieces{onText: r.OnText}
	if err := provider.Read(w.chat.NewStreaming(ctx, params), pieces.add); err != nil {
		return llm.Response{}, err
	}
	return pieces.answer()
}

// params puts a request into the server's form.
func (w wire) params(r llm.Request) sdk.ChatCompletionNewParams {
	params := sdk.ChatCompletionNewParams{Model: w.client.Model}
	if r.System != "" {
		params.Messages = append(params.Messages, sdk.SystemMessage(r.System))
	}
	for _, m := range r.Messages {
		params.Messages = append(params.Messages, messages(m)...)
	}
	for _, t := range r.Tools {
		params.Tools = append(params.Tools, function(t))
	}
	if r.Temperature != nil {
		params.Temperature = param.NewOpt(*r.Temperature)
	}
	switch {
	case r.MaxTokens > 0 && w.client.IsOwn:
		params.MaxCompletionTokens = param.NewOpt(int64(r.MaxTokens))
	case r.MaxTokens > 0: // the name that others know
		params.MaxTokens = param.NewOpt(int64(r.MaxTokens))
	}
	return params
}

// messages returns a message in the server's form: results are messages of their own.
func messages(m llm.Message) (all []sdk.ChatCompletionMessageParamUnion) {
	if m.Role == llm.Assistant {
		assistant := sdk.ChatCompletionAssistantMessageParam{}
		if m.Text != "" || len(m.Calls) == 0 {
			assistant.Content.OfString = param.NewOpt(m.Text)
		}
		for _, c := range m.Calls {
			assistant.ToolCalls = append(assistant.ToolCalls, sdk.ChatCompletionMessageToolCallUnionParam{
				OfFunction: &sdk.ChatCompletionMessageFunctionToolCallParam{
					ID:       c.ID,
					Function: sdk.ChatCompletionMessageFunctionToolCallFunctionParam{Name: c.Name, Arguments: string(c.Object())},
				},
			})
		}
		return append(all, sdk.ChatCompletionMessageParamUnion{OfAssistant: &assistant})
	}
	for _, r := range m.Results {
		all = append(all, sdk.ToolMessage(r.Text, r.CallID))
	}
	if m.Text != "" || len(m.Results) == 0 {
		all = append(all, sdk.UserMessage(m.Text))
	}
	return all
}

func function(t llm.Tool) sdk.ChatCompletionToolUnionParam {
	f := shared.FunctionDefinitionParam{Name: t.Name, Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{}}}
	var schema map[string]any
	if json.Unmarshal(t.Schema, &schema) == nil && schema != nil {
		f.Parameters = schema
	}
	if t.Description != "" {
		f.Description = param.NewOpt(t.Description)
	}
	return sdk.ChatCompletionFunctionTool(f)
}

func usageOf(u sdk.CompletionUsage) llm.Usage {
	return llm.Usage{Input: int(u.PromptTokens), Output: int(u.CompletionTokens)}
}

// stopOf reads why the model stopped. Without a reason, the answer is not whole. Some servers say stop where they mean
// that calls are to be made.
func stopOf(reason string, refused bool, calls []llm.Call) (llm.Stop, error) {
	switch {
	case !llm.IsStop(reason):
		return "", fmt.Errorf("%w: it does not say why it ends", llm.ErrMalformed)
	case reason == "length":
		return llm.StopLength, nil
	case refused, reason == "content_filter":
		return llm.StopRefusal, nil
	case len(calls) > 0:
		return llm.StopCalls, nil
	}
	return llm.StopEnd, nil
}

// Refusal reads an error that the server has sent, with a status or within a stream.
func (w wire) Refusal(err error) *llm.Error {
	if refused, ok := errors.AsType[*sdk.Error](err); ok {
		code, header := cmp.Or(refused.Code, refused.Type), provider.HeaderOf(refused.Response)
		return w.client.Endpoint.Refusal(refused.StatusCode, header, code, refused.Message)
	}
	if failed, ok := errors.AsType[*ssestream.StreamError](err); ok {
		var event struct {
			Error struct {
				Type, Message string
				Code          any
			}
		}
		_ = json.Unmarshal(failed.Event.Data, &event) // what cannot be read has no code
		code, _ := event.Error.Code.(string)
		return w.client.Endpoint.Refusal(0, nil, cmp.Or(code, event.Error.Type), event.Error.Message)
	}
	return nil
}

// Bounds of a stream, beyond that on its bytes.
const maxCalls = 128

// pieces puts the pieces of a stream together.
type pieces struct {
	onText  func(string)
	text    strings.Builder
	refusal strings.Builder
	calls   []*call
	byIndex map[int64]*call
	reason  string
	usage   llm.Usage
}

type call struct {
	id, name string
	args     strings.Builder
}

func (p *pieces) add(chunk sdk.ChatCompletionChunk) error {
	if u := usageOf(chunk.Usage); u.Tokens() > 0 {
		p.usage = u
	}
	for _, choice := range chunk.Choices {
		if choice.Index != 0 {
			continue
		}
		p.reason = cmp.Or(choice.FinishReason, p.reason)
		p.text.WriteString(choice.Delta.Content)
		p.refusal.WriteString(choice.Delta.Refusal)
		if p.onText != nil && choice.Delta.Content != "" {
			p.onText(choice.Delta.Content)
		}
		for _, d := range choice.Delta.ToolCalls {
			if err := p.addCall(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// addCall adds a piece of a call. Some servers give all calls the same index: another ID is another call.
func (p *pieces) addCall(d sdk.ChatCompletionChunkChoiceDeltaToolCall) error {
	c := p.byIndex[d.Index]
	if c == nil || d.ID != "" && c.id != "" && d.ID != c.id {
		if len(p.calls) == maxCalls {
			return fmt.Errorf("%w: more than %d tool calls", llm.ErrMalformed, maxCalls)
		}
		if p.byIndex == nil {
			p.byIndex = map[int64]*call{}
		}
		c = &call{}
		p.byIndex[d.Index] = c
		p.calls = append(p.calls, c)
	}
	c.id = cmp.Or(c.id, d.ID)
	c.name = cmp.Or(c.name, d.Function.Name)
	c.args.WriteString(d.Function.Arguments)
	return nil
}

func (p *pieces) answer() (answer llm.Response, err error) {
	answer = llm.Response{Text: cmp.Or(p.text.String(), p.refusal.String()), Usage: p.usage}
	for i, c := range p.calls {
		answer.Calls = append(answer.Calls, llm.Call{ID: cmp.Or(c.id, fmt.Sprintf("call_%d", i)), Name: c.name, Args: c.args.String()})
	}
	answer.Stop, err = stopOf(p.reason, p.refusal.Len() > 0, answer.Calls)
	return answer, err
}
