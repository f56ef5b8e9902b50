package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/tool/mcp"
)

type mcpFlags struct {
	configFlags
	output format
}

func newMCP() *cobra.Command {
	f := mcpFlags{}
	cmd := &cobra.Command{
		Use:   "mcp",
		Short: "Show what MCP servers offer, and approve what has changed",
		Long: `The tools of an MCP server are what the server says they are, and models read it. So what a server
says about a tool is pinned by its hash: in the configuration (mcp[].pins) or, when the tool is seen
for the first time, in the store. A tool that the server describes in another way from then on is
blocked, until its new hash is approved.`,
		Example: `  converge mcp inspect                       # what the servers of converge.yaml offer
  converge mcp accept fs.read_text_file=HASH # approve what was just read
  converge mcp forget fs.read_text_file      # and trust what is seen next`,
	}
	flags := cmd.PersistentFlags()
	f.add(flags)
	addFormat(cmd, &f.output, "of what is printed")
	cmd.AddCommand(newMCPInspect(&f), newMCPAccept(&f), newMCPForget(&f))
	return cmd
}

func (f *mcpFlags) load() (*config.Config, network.Options, error) {
	c, err := f.configFlags.load()
	if err == nil && len(c.MCP) == 0 {
		err = &exitError{exitFailed, fmt.Errorf("%s: no mcp servers", f.file), "mcp: [{name: NAME, command: [PROGRAM, …], tools: [TOOL, …]}] adds one"}
	}
	return c, network.Options{Logger: slog.New(slog.DiscardHandler)}, err
}

func newMCPInspect(f *mcpFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect",
		Short: "Start the servers and print what they offer, with hashes",
		Long: `Inspect starts the MCP servers of the configuration, prints each tool that they offer, with the hash
of its definition and whether that is the one that is pinned, and ends them again. It pins nothing.
With -o json it prints whole definitions, schemas included. Read them before you approve them.

Exit status: 0 if all tools that the configuration names are as they were pinned, or new; 1 if one is
not, is missing, or can't be used.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, o, err := f.load()
			if err != nil {
				return err
			}
			servers, unread, err := network.InspectMCP(cmd.Context(), c, o)
			if printErr := printServers(cmd.OutOrStdout(), servers, f.output); printErr != nil {
				return printErr
			}
			if unread != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "converge: pins of the store are not shown:", unread)
			}
			if failed, ok := errors.AsType[*mcp.StartError](err); ok && failed.Stderr != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s wrote:\n%s\n", failed.Program, mcp.Visible(failed.Stderr, 4<<10))
			}
			return errors.Join(err, verdict(servers))
		},
	}
}

// verdict is the error of tools that the configuration names and that would not run.
func verdict(servers []network.MCPServer) error {
	var errs []error
	for _, s := range servers {
		for _, name := range s.Missing {
			errs = append(errs, fmt.Errorf("mcp server %q does not offer %q", s.Name, name))
		}
		for _, t := range s.Tools {
			full := s.Name + "." + t.Definition.Name
			switch {
			case !t.Named:
			case t.Err != nil:
				errs = append(errs, fmt.Errorf("%s can't be used: %w", full, t.Err))
			case t.Changed() && t.InFile:
				errs = append(errs, &exitError{exitFailed, fmt.Errorf("%s has changed", full), fmt.Sprintf("if you agree with what it is now, write into the file: pins: {%s: %s}", t.Definition.Name, t.Hash)})
			case t.Changed():
				errs = append(errs, &exitError{exitFailed, fmt.Errorf("%s has changed", full), fmt.Sprintf("if you agree with what it is now: converge mcp accept %s=%s", full, t.Hash)})
			}
		}
	}
	return errors.Join(errs...)
}

func printServers(w io.Writer, servers []network.MCPServer, f format) error {
	if f == "json" {
		return json.NewEncoder(w).Encode(jsonServers(servers))
	}
	out := bufio.NewWriter(w)
	for i, s := range servers {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s, which says it is %q\n", s.Name, s.Says)
		for _, t := range s.Tools {
			printTool(out, t)
		}
	}
	return out.Flush()
}

func printTool(w io.Writer, t network.MCPTool) {
	d := t.Definition
	fmt.Fprintf(w, "\n  %s: %s\n", mcp.Visible(d.Name, 128), pinStateOf(t))
	if t.Err == nil {
		fmt.Fprintf(w, "    hash         %s\n", t.Hash)
	}
	fmt.Fprintf(w, "    hints        read-only %v, destructive %v, open world %v\n", d.ReadOnly, d.Destructive, d.OpenWorld)
	for line := range strings.Lines(mcp.Visible(d.Description, mcp.MaxDescription)) {
		fmt.Fprintf(w, "    | %s\n", strings.TrimRight(line, "\r\n"))
	}
}

// pinStateOf says how a tool stands to the configuration and its pin.
func pinStateOf(t network.MCPTool) string {
	where := "in the store"
	if t.InFile {
		where = "in the file"
	}
	switch {
	case t.Err != nil:
		return fmt.Sprintf("refused: %v", t.Err)
	case !t.Named:
		return "not named in the file"
	case t.Pinned == nil:
		return "no pin"
	case t.Changed():
		return fmt.Sprintf("CHANGED: %s is pinned %s", *t.Pinned, where)
	default:
		return "as it is pinned " + where
	}
}

type jsonServer struct {
	Name    string     `json:"name"`
	Says    string     `json:"says"`
	Tools   []jsonTool `json:"tools"`
	Missing []string   `json:"missing,omitempty"`
}

type jsonTool struct {
	mcp.Definition
	Hash   string `json:"hash,omitempty"`
	Named  bool   `json:"named"`
	Pinned string `json:"pinned,omitempty"`
	Error  string `json:"error,omitempty"`
}

func jsonServers(servers []network.MCPServer) []jsonServer {
	all := []jsonServer{}
	for _, s := range servers {
		j := jsonServer{Name: s.Name, Says: s.Says, Tools: []jsonTool{}, Missing: s.Missing}
		for _, t := range s.Tools {
			one := jsonTool{Definition: t.Definition, Named: t.Named}
			if t.Err == nil {
				one.Hash = t.Hash.String()
			} else {
				one.Error = t.Err.Error()
			}
			if t.Pinned != nil {
				one.Pinned = t.Pinned.String()
			}
			j.Tools = append(j.Tools, one)
		}
		all = append(all, j)
	}
	return all
}

func newMCPAccept(f *mcpFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "accept SERVER.TOOL=HASH ...",
		Short: "Approve definitions by their hashes",
		Long: `Accept makes hashes that "mcp inspect" printed the pins of their tools, in the store. The network must
not run if its store is SQLite; if it runs on another store, it goes on with the pins that it started
with. Pins in the configuration beat those in the store.`,
		Example: `  converge mcp accept fs.read_text_file=d9b8991a52c1e3b2c914cd5a768a7fdeac95365f66cb1fcb4b54358cec3f6cb0`,
		Args:    some("SERVER.TOOL=HASH"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return f.change(cmd, given, func(p *mcp.Pins, server, tool, value string) error {
				hash, err := mcp.ParseHash(value)
				if err == nil {
					err = p.Accept(cmd.Context(), server, tool, hash)
				}
				return err
			})
		},
	}
}

func newMCPForget(f *mcpFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "forget SERVER.TOOL ...",
		Short: "Remove pins, so that what is seen next is trusted",
		Long: `Forget removes the pins of tools from the store: the definition that the server offers at the next
start is pinned then. The network must not run if its store is SQLite.`,
		Args: some("SERVER.TOOL"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return f.change(cmd, given, func(p *mcp.Pins, server, tool, _ string) error {
				return p.Forget(cmd.Context(), server, tool)
			})
		},
	}
}

// some takes one argument at least.
func some(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
}

// change does something with the pin of each tool that is given as SERVER.TOOL or SERVER.TOOL=VALUE. All names are
// checked before.
func (f *mcpFlags) change(cmd *cobra.Command, given []string, do func(p *mcp.Pins, server, tool, value string) error) error {
	c, o, err := f.load()
	if err != nil {
		return err
	}
	for _, pair := range given {
		name, _, _ := strings.Cut(pair, "=")
		if _, _, err := network.CheckMCPTool(c, name); err != nil {
			return err
		}
	}
	return withPins(cmd.Context(), c, o, func(p *mcp.Pins) error {
		for _, pair := range given {
			name, value, _ := strings.Cut(pair, "=")
			server, tool, err := network.CheckMCPTool(c, name)
			if err == nil {
				err = do(p, server, tool, value)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

func withPins(ctx context.Context, c *config.Config, o network.Options, do func(*mcp.Pins) error) error {
	pins, done, err := network.OpenMCPPins(ctx, c, o)
	if err != nil {
		return err
	}
	return errors.Join(do(pins), done())
}
