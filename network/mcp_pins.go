package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/nearest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/tool/mcp"
)

// MCPServer is what an MCP server of the configuration offers.
type MCPServer struct {
	Name    string
	Says    string // what it says it is
	Tools   []MCPTool
	Missing []string // tools of the configuration that it does not offer
}

// MCPTool is a tool that a server offers.
type MCPTool struct {
	mcp.Offer
	Named  bool      // the configuration names it
	Pinned *mcp.Hash // nil if there is no pin, or none that can be read
	InFile bool      // the pin is the configuration's, not the store's
}

// Changed reports whether the definition is not the one that was approved.
func (t MCPTool) Changed() bool { return t.Named && t.Pinned != nil && *t.Pinned != t.Hash }

// InspectMCP starts the MCP servers of the configuration, one after the other, and says what each offers and what is
// pinned. It pins nothing. If the pins of the store cannot be read, which is so while a network runs on SQLite,
// unread says why.
func InspectMCP(ctx context.Context, c *config.Config, o Options) (servers []MCPServer, unread error, _ error) {
	pins, done, unread := OpenMCPPins(ctx, c, o)
	if unread == nil {
		defer func() { _ = done() }()
	}
	var errs []error
	for i := range c.MCP {
		s, err := inspectServer(ctx, &c.MCP[i], pins, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("mcp[%d]: %w", i, err))
			continue
		}
		servers = append(servers, s)
	}
	return servers, unread, errors.Join(errs...)
}

func inspectServer(ctx context.Context, m *config.MCP, pins *mcp.Pins, o Options) (MCPServer, error) {
	s, err := newServer(m, nil, o)
	if err != nil {
		return MCPServer{}, err
	}
	offers, says, err := s.Inspect(ctx)
	if err != nil {
		return MCPServer{}, err
	}
	inspected := MCPServer{Name: m.Name, Says: says, Missing: slices.Clone(m.Tools)}
	for _, offer := range offers {
		t := MCPTool{Offer: offer, Named: slices.Contains(m.Tools, offer.Definition.Name)}
		inspected.Missing = slices.DeleteFunc(inspected.Missing, func(name string) bool { return name == offer.Definition.Name })
		if err := t.findPin(ctx, m, pins); err != nil {
			return MCPServer{}, err
		}
		inspected.Tools = append(inspected.Tools, t)
	}
	return inspected, nil
}

func (t *MCPTool) findPin(ctx context.Context, m *config.MCP, pins *mcp.Pins) error {
	if text, ok := m.Pins[t.Definition.Name]; ok {
		hash, err := mcp.ParseHash(text)
		t.Pinned, t.InFile = &hash, true
		return err
	}
	if pins == nil || !t.Named {
		return nil
	}
	pin, err := pins.Get(ctx, m.Name, t.Definition.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	t.Pinned = &pin.Hash
	return err
}

// OpenMCPPins opens the store of a network that does not run, or one that processes share, for its pins. Call done in
// the end.
func OpenMCPPins(ctx context.Context, c *config.Config, o Options) (pins *mcp.Pins, done func() error, err error) {
	if !c.StoreSurvives() {
		return nil, nil, advice.On(errors.New("the store memory keeps no pins"), "pin tools in the file: mcp[].pins, or choose a store that stays, such as store: sqlite")
	}
	n, err := withStore(ctx, c, o)
	if err != nil {
		return nil, nil, err
	}
	return mcp.NewPins(n.store, c.Network), n.Close, nil
}

// CheckMCPTool returns the server and the tool that SERVER.TOOL stands for in a configuration. Its error names the
// nearest one that there is.
func CheckMCPTool(c *config.Config, name string) (server, tool string, err error) {
	if m, tool, ok := c.MCPTool(name); ok {
		return m.Name, tool, nil
	}
	var known []string
	for _, m := range c.MCP {
		for _, t := range m.Tools {
			known = append(known, m.Name+"."+t)
		}
	}
	err = fmt.Errorf("no tool %q of an mcp server in the configuration", mcp.Visible(name, 200))
	if near := nearest.Name(name, known); near != "" {
		return "", "", advice.On(err, fmt.Sprintf("did you mean %q?", near))
	}
	return "", "", advice.On(err, "there are: "+strings.Join(known, ", "))
}
