package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/tool"
)

// Tool is a server's tool as a [tool.Tool]. It is a [tool.Describer] and [tool.Annotated] too. One that was blocked
// when the server was started has neither description nor schema: they are not those that were approved.
type Tool struct {
	server      *Server
	name        string // SERVER.TOOL
	definition  Definition
	pinned      Hash
	schema      *jsonschema.Schema
	annotations tool.Annotations
	changed     *ChangedError // if it was blocked at the start, which is for good
}

func (s *Server) newTool(d Definition, pinned Hash) (*Tool, error) {
	t := &Tool{server: s, name: s.config.Name + "." + d.Name, definition: d, pinned: pinned, annotations: d.Annotations()}
	if s.config.Annotate != nil {
		t.annotations = s.config.Annotate(d.Name, t.annotations)
	}
	if offered := d.Hash(); offered != pinned {
		t.changed = &ChangedError{Server: s.config.Name, Tool: d.Name, Pinned: pinned, Offered: offered}
		t.definition = Definition{Name: d.Name}
		return t, nil
	}
	var err error
	if t.schema, err = d.schema(); err == nil {
		err = tool.NewRegistry().Register(t, tool.Options{}) // says what is wrong with the schema
	}
	if err != nil {
		return nil, fmt.Errorf("tool %q: it cannot be used: %w: leave it out of the tools, or have the server mended", d.Name, err)
	}
	return t, nil
}

// verdict returns why the tool is blocked, given what the server offers now under its name; nil if it is not.
func (t *Tool) verdict(offered *sdk.Tool) error {
	if t.changed != nil {
		return t.changed
	}
	if offered == nil {
		return fmt.Errorf("tool %q of mcp server %q is blocked: %w", t.definition.Name, t.server.config.Name, ErrGone)
	}
	d, err := define(offered)
	if err != nil {
		return &ChangedError{Server: t.server.config.Name, Tool: t.definition.Name, Pinned: t.pinned, Reason: err}
	}
	if hash := d.Hash(); hash != t.pinned {
		return &ChangedError{Server: t.server.config.Name, Tool: t.definition.Name, Pinned: t.pinned, Offered: hash}
	}
	return nil
}

// Name implements [tool.Tool]: the server's name, a dot, and the server's name for the tool.
func (t *Tool) Name() string { return t.name }

// Description implements [tool.Describer].
func (t *Tool) Description() string { return t.definition.Description }

// InputSchema implements [tool.Describer]. The schema is the caller's own.
func (t *Tool) InputSchema() *jsonschema.Schema { return t.schema.CloneSchemas() }

// Annotations implements [tool.Annotated].
func (t *Tool) Annotations() tool.Annotations { return t.annotations }

// Pinned returns the hash that the tool's definition has to have.
func (t *Tool) Pinned() Hash { return t.pinned }

// Run implements [tool.Tool]. Structured content comes as application/json, text as text/plain, and what is neither
// as a JSON list of the protocol's content blocks. Errors are those of this package, [tool.ErrOutputTooLarge], and
// the cause of ctx; a [*ResultError] repeats what the server says.
func (t *Tool) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	if len(params) == 0 {
		params = json.RawMessage("{}")
	}
	for {
		x, err := t.server.acquire(ctx, t.definition.Name)
		if err != nil {
			return tool.Output{}, err
		}
		raw, err := x.call(ctx, t.definition.Name, params)
		switch {
		case err == nil:
			return output(ctx, raw)
		case errors.Is(err, errUnsent):
			t.server.lose(x)
		default:
			return tool.Output{}, err
		}
	}
}
