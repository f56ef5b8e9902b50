package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/observe"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/mcp"
	"github.com/converge-agents/converge/transport/nats"
)

// addServers starts the MCP servers of the configuration, all at once, and registers their tools. Its errors name
// every server that cannot be had.
func (n *Network) addServers(ctx context.Context) error {
	var pins *mcp.Pins
	if n.config.StoreSurvives() {
		pins = mcp.NewPins(n.store, n.config.Network)
	}
	errs := make([]error, len(n.config.MCP))
	for i := range n.config.MCP {
		s, err := newServer(&n.config.MCP[i], pins, n.options)
		n.servers = append(n.servers, s)
		errs[i] = err
	}
	if err := serverErrors(errs); err != nil {
		n.servers = nil
		return err
	}
	n.tellConfinement()
	var starts sync.WaitGroup
	for i, s := range n.servers {
		starts.Go(func() { errs[i] = s.Start(ctx) })
	}
	starts.Wait()
	if err := serverErrors(errs); err != nil {
		return err
	}
	for i, s := range n.servers {
		errs[i] = n.addServerTools(s, n.config.MCP[i])
	}
	return serverErrors(errs)
}

// serverErrors names the keys of servers that cannot be had.
func serverErrors(errs []error) error {
	for i, err := range errs {
		if err == nil {
			continue
		}
		errs[i] = fmt.Errorf("mcp[%d]: %w", i, err)
		if failed, ok := errors.AsType[*mcp.StartError](err); ok && failed.Stderr != "" {
			errs[i] = advice.On(errs[i], "`converge mcp inspect` shows what it wrote on standard error; it may read and reach only what read, write and network grant")
		}
	}
	return errors.Join(errs...)
}

// tellConfinement says what programs are kept from on this machine, and what not.
func (n *Network) tellConfinement() {
	for i, s := range n.servers {
		m := n.config.MCP[i]
		n.warnOfState(s.Name(), slices.Concat([]string{m.Dir}, m.Read, m.Write))
		n.warnOfSocket(s.Name(), m.UnixSockets)
		var kept, missing []string
		for _, p := range s.Protections() {
			if p.InForce {
				kept = append(kept, p.Name)
			} else {
				missing = append(missing, p.String())
			}
		}
		switch {
		case len(kept) == 0 && len(missing) > 0:
			n.log.Warn("mcp server is not confined: it may do what this process may", "server", s.Name(), "why", strings.Join(missing, "; "))
		case len(kept) > 0:
			n.log.Info("mcp server is confined", "server", s.Name(), "in_force", strings.Join(kept, ", "), "not_in_force", strings.Join(missing, "; "))
		}
	}
}

func newServer(m *config.MCP, pins *mcp.Pins, o Options) (*mcp.Server, error) {
	c := mcp.Config{
		Name: m.Name, Tools: m.Tools,
		Command: m.Command, Env: m.Env, PassEnv: m.PassEnv, Dir: m.Dir,
		Read: m.Read, Write: m.Write, Network: m.Network, UnixSockets: m.UnixSockets, UnsafeNoSandbox: m.UnsafeNoSandbox,
		URL:          m.URL,
		Pins:         map[string]mcp.Hash{},
		Store:        pins,
		StartTimeout: time.Duration(m.StartTimeout),
		Logger:       o.Logger,
		LogStderr:    m.LogStderr,
		Annotate: func(name string, a tool.Annotations) tool.Annotations {
			a.ReadOnly, a.Destructive, a.OpenWorld = m.What(name, a.ReadOnly, a.Destructive, a.OpenWorld)
			return a
		},
	}
	if m.URL != "" {
		c.Header = func() (http.Header, error) { return headers(m) }
	}
	for name, text := range m.Pins {
		hash, err := mcp.ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("pins.%s: %w", name, err)
		}
		c.Pins[name] = hash
	}
	return mcp.New(c)
}

// headers reads the secrets that requests to a server carry.
func headers(m *config.MCP) (http.Header, error) {
	h := http.Header{}
	if m.Token != (config.Secret{}) {
		token, err := nats.Secret(m.Token).Read()
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		h.Set("Authorization", "Bearer "+token)
	}
	for name, secret := range m.Headers {
		value, err := nats.Secret(secret).Read()
		if err != nil {
			return nil, fmt.Errorf("headers.%s: %w", name, err)
		}
		h.Set(name, value)
	}
	return h, nil
}

func (n *Network) addServerTools(s *mcp.Server, m config.MCP) error {
	for _, t := range s.Tools() {
		if schema := t.InputSchema(); schema != nil {
			n.required[t.Name()] = schema.Required
		}
		if err := n.tools.Register(&served{t, n}, tool.Options{
			Timeout:       time.Duration(m.Timeout),
			MaxConcurrent: m.Concurrency,
			MaxOutput:     int(m.MaxOutput),
		}); err != nil {
			return err
		}
	}
	n.metrics.Require("mcp server "+m.Name, func() bool { return s.Status().Up })
	n.metrics.AddServer(m.Name, func() observe.Server { return serverStats(s.Status()) })
	return nil
}

func serverStats(s mcp.Status) observe.Server {
	return observe.Server{Up: s.Up, Restarts: s.Restarts, Blocked: s.Blocked}
}

// checkRequired reports a task that lacks params that a server's tool, which serves it, wants. All else is held
// against the tool's schema when it is called.
func (n *Network) checkRequired(t config.Task, name string, given []string) error {
	for _, wanted := range n.required[name] {
		if !slices.Contains(given, wanted) {
			return fmt.Errorf("params: %s; but tool %q requires %s", list(given), name, list(n.required[name]))
		}
	}
	return nil
}

// closeServers ends all servers at once.
func (n *Network) closeServers() error {
	errs := make([]error, len(n.servers))
	var closing sync.WaitGroup
	for i, s := range n.servers {
		closing.Go(func() { errs[i] = s.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

// served is a tool of an MCP server. Abort ends its calls.
type served struct {
	*mcp.Tool
	network *Network
}

// Run implements [tool.Tool].
func (t *served) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	return t.network.runTool(ctx, t.Tool, params)
}
