package mcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Offer is a tool that a server offers.
type Offer struct {
	Definition Definition
	Hash       Hash
	Err        error // why nobody should approve it; then the rest may be incomplete, and hold what hides
}

// Inspect starts the server, lists all that it offers, sorted by name, and ends it again. It pins nothing. It is for
// a Server that was not started. Names in offers are what the server says; see [Visible].
func (s *Server) Inspect(ctx context.Context) (_ []Offer, says string, _ error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.StartTimeout, fmt.Errorf("not ready after %v", s.config.StartTimeout))
	defer cancel()
	x, err := s.open(ctx)
	if err != nil {
		return nil, "", s.error("inspect", cmpCause(ctx, err))
	}
	defer x.close()
	offered, err := x.list(ctx)
	if err != nil {
		return nil, "", s.error("inspect", cmpCause(ctx, err))
	}
	var offers []Offer
	for _, name := range slices.Sorted(maps.Keys(offered)) {
		offers = append(offers, s.offer(offered[name]))
	}
	return offers, x.says(), nil
}

func (s *Server) offer(t *sdk.Tool) Offer {
	d, err := define(t)
	if err != nil {
		return Offer{Definition: d, Err: err}
	}
	o := Offer{Definition: d, Hash: d.Hash()}
	if isToolName(s.config.Name, d.Name) {
		_, o.Err = s.newTool(d, o.Hash)
	} else {
		o.Err = errors.New("its name is empty or too long, or has others than letters, digits, '_', '-' and '.'")
	}
	return o
}

// Visible returns at most limit bytes of a server's text, with what hides in it replaced.
func Visible(text string, limit int) string { return visible(text, limit) }
