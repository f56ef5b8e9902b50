// Package provider is what the implementations of [llm.Provider] share: the check of their configuration, their HTTP
// client, and one call from the request to an answer or an [*llm.Error]. Each implementation adds its [Wire].
package provider

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/llm"
)

// Config is the configuration of each implementation.
type Config struct {
	Model    string
	Endpoint llm.Endpoint
}

// Client reaches one model at one server. It is safe for concurrent use.
type Client struct {
	Model    string
	Endpoint llm.Endpoint // complete and checked
	IsOwn    bool         // the server is the one that a zero BaseURL means
	HTTP     *http.Client
}

// New checks the configuration of the implementation name, whose own server is at base. Its errors name the field at
// fault.
func New(name, base string, c Config) (*Client, error) {
	e := c.Endpoint
	e.Provider, e.BaseURL = cmp.Or(e.Provider, name), cmp.Or(e.BaseURL, base)
	isOwn := e.BaseURL == base
	if c.Model == "" {
		return nil, fmt.Errorf("%s.Config.Model: required", name)
	}
	if isOwn && e.Key.IsZero() {
		return nil, fmt.Errorf("%s.Config.Endpoint.Key: %w", name, llm.ErrNoKey)
	}
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("%s.Config.Endpoint: %w", name, err)
	}
	return &Client{Model: c.Model, Endpoint: e, IsOwn: isOwn, HTTP: e.Client()}, nil
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.HTTP.CloseIdleConnections() }

// Wire is what differs from one implementation to the next. It may panic: what a server sends is not to be trusted.
type Wire interface {
	// Whole asks for an answer in one piece.
	Whole(ctx context.Context, r llm.Request) (llm.Response, error)
	// Stream asks for an answer in pieces.
	Stream(ctx context.Context, r llm.Request) (llm.Response, error)
	// Refusal reads an error of the other methods: nil unless it is one that the server has sent.
	Refusal(err error) *llm.Error
}

// Chat asks once, as [llm.Provider] has it.
func (c *Client) Chat(ctx context.Context, w Wire, r llm.Request) (llm.Response, error) {
	answer, err := ask(ctx, w, r)
	if err == nil {
		answer.Usage = answer.Usage.OrEstimated(r, answer) // some servers do not count
		return answer, nil
	}
	if refused := w.Refusal(err); refused != nil {
		return llm.Response{}, refused
	}
	return llm.Response{}, c.Endpoint.Failure(ctx, err)
}

func ask(ctx context.Context, w Wire, r llm.Request) (answer llm.Response, err error) {
	defer panics.Catch(&err, "the reader of answers")
	if r.Stream {
		return w.Stream(ctx, r)
	}
	return w.Whole(ctx, r)
}

// Stream is how the SDKs give the pieces of an answer.
type Stream[Piece any] interface {
	Next() bool
	Current() Piece
	Err() error
	Close() error
}

// Read gives each piece of a stream to add, until one is refused or the stream ends, and closes the stream.
func Read[Piece any](stream Stream[Piece], add func(Piece) error) error {
	defer stream.Close()
	for stream.Next() {
		if err := add(stream.Current()); err != nil {
			return err
		}
	}
	return stream.Err()
}

// HeaderOf returns the header of a response that may be nil.
func HeaderOf(r *http.Response) http.Header {
	if r == nil {
		return nil
	}
	return r.Header
}
