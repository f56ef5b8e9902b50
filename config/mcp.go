package config

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/loopback"
)

// MCP describes a server of the Model Context Protocol, whose tools agents may be allowed to run: Command is a program
// that this process starts, URL one that runs elsewhere.
type MCP struct {
	// Name is the server's: 1 to 64 letters, digits, '_' and '-'; required, and once in a Config. Its tools are called
	// NAME.TOOL.
	Name string `key:"name"`
	// Tools names the tools that are looked at, as the server calls them; at least one. All others do not exist.
	Tools []string `key:"tools"`
	// Command is the program and its arguments, exactly as they are: there is no shell. Either Command or URL is
	// required.
	Command []string `key:"command"`
	// Env are variables of the program's environment, which is empty otherwise.
	Env map[string]string `key:"env"`
	// PassEnv names variables of this process that the program gets too.
	PassEnv []string `key:"pass_env"`
	// Dir is the folder that the program runs in, relative to the current directory. Default "", the current
	// directory.
	Dir string `key:"dir"`
	// Read are files and folders that the program may read and execute, beside those of the system, the program
	// itself and Dir, and Write those that it may change too, relative to the current directory. Network lets it use
	// IP, and UnixSockets connect to sockets of this machine. Default: nothing. What is not granted is kept from it
	// as far as the kernel can: the log says at start what is in force.
	Read        []string `key:"read"`
	Write       []string `key:"write"`
	Network     bool     `key:"network"`
	UnixSockets bool     `key:"unix_sockets"`
	// UnsafeNoSandbox runs the program without all that: it may do what this process may. Not together with the
	// others. Default false.
	UnsafeNoSandbox bool `key:"unsafe_no_sandbox"`
	// URL is where the server is: https, or http if its host is this machine.
	URL string `key:"url"`
	// Token is sent to the URL as Authorization: Bearer, and Headers are the values of other headers.
	Token   Secret            `key:"token"`
	Headers map[string]Secret `key:"headers"`

	// Pins are the hashes of the definitions that tools have to have, as `converge mcp inspect` prints them. Tools
	// without one are pinned in the store, when they are seen first.
	Pins map[string]string `key:"pins"`
	// Destructive, ReadOnly and OpenWorld say what tools do, by their names. Default: what the server hints at.
	Destructive map[string]bool `key:"destructive"`
	ReadOnly    map[string]bool `key:"read_only"`
	OpenWorld   map[string]bool `key:"open_world"`

	// Timeout bounds a call. Default 0, which leaves it to the agent's ToolTimeout; where both are given, the
	// shorter holds.
	Timeout Duration `key:"timeout"`
	// StartTimeout bounds the server's start. Default 0, which is 30s.
	StartTimeout Duration `key:"start_timeout"`
	// Concurrency bounds the calls of each tool that run at once for one agent. Default 0, which is the guard's
	// (tool.DefaultMaxConcurrent).
	Concurrency int `key:"concurrency"`
	// MaxOutput bounds the output of a call. Default 0, which is the guard's (tool.DefaultMaxOutput).
	MaxOutput Size `key:"max_output"`
	// LogStderr logs what the program wrote on standard error, up to 4 KiB of it, when it ends. It may hold
	// secrets. Default false.
	LogStderr bool `key:"log_stderr"`
}

// maxServerName bounds the name of a server.
const maxServerName = 64

// MCPTool returns the server and the tool that a tool's name stands for. ok is false if it is not that of a server's
// tool.
func (c *Config) MCPTool(name string) (server *MCP, tool string, ok bool) {
	for i := range c.MCP {
		if tool, ours := strings.CutPrefix(name, c.MCP[i].Name+"."); ours && slices.Contains(c.MCP[i].Tools, tool) {
			return &c.MCP[i], tool, true
		}
	}
	return nil, "", false
}

// mcpTools returns the names of all servers' tools.
func (c *Config) mcpTools() []string {
	var names []string
	for _, m := range c.MCP {
		for _, t := range m.Tools {
			names = append(names, m.Name+"."+t)
		}
	}
	return names
}

func (k checker) mcp() {
	for i, m := range k.MCP {
		key := item("mcp", i)
		switch {
		case m.Name == "":
			k.bad(child(key, "name"), "its tools are called NAME.TOOL", "required")
		case !isName(m.Name) || strings.Contains(m.Name, ".") || len(m.Name) > maxServerName:
			k.bad(child(key, "name"), "use 1 to 64 letters, digits, '_' and '-'", "not a server's name: %q", clip(m.Name))
		case slices.ContainsFunc(k.MCP[:i], func(other MCP) bool { return other.Name == m.Name }):
			k.bad(child(key, "name"), "", "%q is given twice", clip(m.Name))
		}
		k.mcpTransport(key, m)
		k.mcpToolNames(key, m)
		k.notNegative(child(key, "timeout"), m.Timeout)
		k.notNegative(child(key, "start_timeout"), m.StartTimeout)
		k.atLeast(child(key, "concurrency"), m.Concurrency, 0)
		if m.MaxOutput < 0 || m.MaxOutput > 16<<20 {
			k.bad(child(key, "max_output"), "", "want at most 16MiB, not %s", m.MaxOutput)
		}
	}
}

func (k checker) mcpTransport(key string, m MCP) {
	switch {
	case len(m.Command) == 0 && m.URL == "":
		k.bad(key, "command: [PROGRAM, …] starts one, url: https://… is one elsewhere", "want a command or a url")
	case len(m.Command) > 0 && m.URL != "":
		k.bad(child(key, "url"), "", "not together with command")
	case m.URL != "":
		k.mcpURL(child(key, "url"), m.URL)
		k.notWith(key, "url", "env", "pass_env", "dir", "log_stderr", "read", "write", "network", "unix_sockets", "unsafe_no_sandbox")
	case m.Command[0] == "":
		k.bad(item(child(key, "command"), 0), "", "the program has no name")
	default:
		k.notWith(key, "command", "token", "headers")
	}
	k.grants(child(key, "read"), m.Read)
	k.grants(child(key, "write"), m.Write)
	if m.UnsafeNoSandbox {
		k.notWith(key, "unsafe_no_sandbox", "read", "write", "network", "unix_sockets")
	}
	k.environment(key, Tool{Env: m.Env, PassEnv: m.PassEnv})
	k.secret(child(key, "token"), m.Token)
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		at := child(child(key, "headers"), name)
		k.secret(at, m.Headers[name])
		switch {
		case !isHeader(name):
			k.bad(at, "", "not a header's name")
		case m.Headers[name] == Secret{}:
			k.bad(at, "say where it is: {file: PATH} or {env: VARIABLE}", "required")
		case strings.EqualFold(name, "Authorization") && m.Token != Secret{}:
			k.bad(at, "", "not together with token")
		}
	}
}

func isHeader(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// notWith refuses keys that are of no use together with another one.
func (k checker) notWith(key, other string, names ...string) {
	for _, name := range names {
		if k.origin.given(child(key, name)) {
			k.bad(child(key, name), "", "not together with %s", other)
		}
	}
}

func (k checker) mcpURL(key, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http": // err repeats it
		k.bad(key, `write it such as "https://mcp.example/mcp"`, "not a URL of a server")
	case u.User != nil:
		k.bad(key, "use token or headers", "no name and password in a URL")
	case u.Scheme == "http" && !loopback.Is(u.Hostname()):
		k.bad(key, "use https", "http to another machine shows all to whoever is on the way")
	}
}

func (k checker) mcpToolNames(key string, m MCP) {
	if len(m.Tools) == 0 {
		k.bad(child(key, "tools"), "name those that agents may be allowed; `converge mcp inspect` lists what the server offers", "required")
	}
	for i, name := range m.Tools {
		at := item(child(key, "tools"), i)
		switch {
		case !isName(m.Name + "." + name):
			k.bad(at, nameHint, "not a tool's name together with the server's: %q", clip(name))
		case slices.Contains(m.Tools[:i], name):
			k.bad(at, "", "%q is given twice", clip(name))
		}
		if _, taken := k.Tools[m.Name+"."+name]; taken {
			k.bad(at, "give one of them another name", "%q is also one of tools", clip(m.Name+"."+name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Pins)) {
		at := child(child(key, "pins"), name)
		if k.mcpKnows(at, m, name) && !isHash(m.Pins[name]) {
			k.bad(at, "`converge mcp inspect` prints it", "want 64 lower-case hexadecimal digits")
		}
	}
	k.mcpHints(child(key, "destructive"), m, m.Destructive)
	k.mcpHints(child(key, "read_only"), m, m.ReadOnly)
	k.mcpHints(child(key, "open_world"), m, m.OpenWorld)
}

func (k checker) mcpHints(key string, m MCP, hints map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(hints)) {
		k.mcpKnows(child(key, name), m, name)
	}
}

func (k checker) mcpKnows(key string, m MCP, name string) bool {
	ok := slices.Contains(m.Tools, name)
	if !ok {
		k.bad(key, suggest(name, "tools", m.Tools), "not one of the tools of %q: %q", clip(m.Name), clip(name))
	}
	return ok
}

func isHash(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

// complete makes paths of the file whole.
func (m *MCP) complete(o origin, key string) {
	m.Token.File = o.path(child(child(key, "token"), "file"), m.Token.File)
	for name, s := range m.Headers {
		s.File = o.path(child(child(child(key, "headers"), name), "file"), s.File)
		m.Headers[name] = s
	}
}

// What returns what a tool does, given what the server hints at.
func (m *MCP) What(name string, readOnly, destructive, openWorld bool) (isReadOnly, isDestructive, isOpenWorld bool) {
	return hint(m.ReadOnly, name, readOnly), hint(m.Destructive, name, destructive), hint(m.OpenWorld, name, openWorld)
}

func hint(set map[string]bool, name string, otherwise bool) bool {
	if value, ok := set[name]; ok {
		return value
	}
	return otherwise
}
