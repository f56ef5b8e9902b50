// Package mcp makes tools of what servers of the Model Context Protocol offer.
//
// A [Server] is a program that speaks the protocol on its standard input and output, or a URL that speaks its
// streamable HTTP. Neither is trusted: what a server says about its tools is read by models, and so is a way to
// talk them into things, and what it said yesterday it need not say today. What holds whatever the server does:
//
//   - Only tools that [Config.Tools] names exist. All others are not looked at.
//   - A tool's definition (name, title, description, schemas, hints) is pinned by its [Hash]: in the
//     configuration, or in a store when it is seen first. A tool whose definition is another one is blocked, with a
//     [*ChangedError], until somebody has approved the new one. That is checked when the server is started, each
//     time that it is started again, when it says that its tools have changed (calls wait until it is done), and
//     once a minute.
//   - Definitions are bounded, and hold no control characters, nothing invisible, and nothing that turns the
//     direction of text. Text cannot be checked for what it says: read it before you approve it.
//   - Hints are hints: a tool counts as destructive unless the server says otherwise, and the configuration has the
//     last word.
//   - The server can ask for nothing. Requests of its own (sampling, elicitation, roots) are refused, and what it
//     says unasked, log messages for one, is dropped. One that floods is ended.
//   - A call ends with its context, at once, and the server is told. Messages are bounded by [MaxMessage], and
//     results by the guard's limit.
//   - A program has a process group of its own, which is killed as one, and only the environment that is
//     configured. It reads and writes the files that are granted, and reaches no network unless that is, as far as
//     the kernel can keep it from that. Programs that end are started again, later each time.
//   - HTTP goes to the host of the URL and nowhere else, by TLS unless that host is this machine.
//
// The session is that of protocol version 2025-11-25 or before, which all servers speak; of later versions, the
// parts that let a server ask for input and say how long its list of tools may be believed are left out.
package mcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/internal/ondisk"
	"github.com/converge-agents/converge/internal/process"
	"github.com/converge-agents/converge/internal/sandbox"
	"github.com/converge-agents/converge/tool"
)

// Limits of what a server may say.
const (
	MaxMessage     = 16 << 20 // bytes of a message; a larger one ends the session
	MaxTools       = 1024     // that a server offers, the named and the others
	MaxDefinition  = 64 << 10 // bytes of the canonical form of a definition
	MaxDescription = 8 << 10  // bytes of a description
	MaxCalls       = 4096     // under way at a time
)

// Defaults of a [Config].
const (
	DefaultStartTimeout = 30 * time.Second
	DefaultCheckEvery   = time.Minute
	DefaultMinBackoff   = 250 * time.Millisecond
	DefaultMaxBackoff   = 30 * time.Second
)

// Config describes a server.
type Config struct {
	// Name is the server's: 1 to 64 letters, digits, '_' and '-'; required. Its tools are called NAME.TOOL.
	Name string
	// Tools names the tools that are looked at; at least one.
	Tools []string

	// Command is the program and its arguments, exactly as they are: there is no shell. The program is its path,
	// or its name if it is to be looked up in PATH, once, by New. Either Command or URL is required.
	Command []string
	// Env are variables of the program's environment, which is empty otherwise.
	Env map[string]string
	// PassEnv names variables that the program gets from this process, as they are at New. Those that are not set
	// are left out.
	PassEnv []string
	// Dir is the folder that the program runs in. "" is the current directory at New.
	Dir string
	// Read are files and folders that the program may read and execute, beside those of the system, the program
	// itself and Dir, and Write those that it may change too. They have to exist; symbolic links are followed by New,
	// and where there is one later, the program does not start. Network lets it use IP, and
	// UnixSockets sockets of this machine. What is not granted is kept from it as far as the kernel can; see
	// [Server.Protections].
	Read, Write          []string
	Network, UnixSockets bool
	// UnsafeNoSandbox runs the program without all that: it may do what this process may.
	UnsafeNoSandbox bool

	// URL is where the server is: https, or http if its host is this machine.
	URL string
	// Header, if set, returns headers that all requests carry, tokens for instance. It is called for each session.
	// Its error should name the place of a secret, and never the secret.
	Header func() (http.Header, error)

	// Pins are hashes that somebody has approved, by the names of tools; see [ParseHash]. They beat those in Store.
	Pins map[string]Hash
	// Store keeps the hashes of tools without one in Pins, as they were seen first. nil keeps them for as long as
	// the Server lives, which is no protection against a server that changes between two starts.
	Store *Pins
	// Annotate, if set, has the last word on what a tool does; it gets what the server hints at.
	Annotate func(name string, hinted tool.Annotations) tool.Annotations

	// StartTimeout bounds each start: the program's, the handshake and the list of tools. 0 is
	// [DefaultStartTimeout].
	StartTimeout time.Duration
	// CheckEvery is how often the list of tools is held against the pins, and with it whether the server still
	// answers: after three times without, it is ended and started again. 0 is [DefaultCheckEvery].
	CheckEvery time.Duration
	// MinBackoff and MaxBackoff bound the time between two starts, which doubles. 0 are [DefaultMinBackoff] and
	// [DefaultMaxBackoff].
	MinBackoff, MaxBackoff time.Duration
	// Logger gets the server's ups and downs, and an error for each tool that is blocked. nil is [slog.Default].
	Logger *slog.Logger
	// LogStderr adds what the program wrote on standard error, the last 4 KiB of it, to the log line of its end.
	// It may hold secrets and params.
	LogStderr bool
}

// maxStderr bounds the bytes of a program's standard error that are kept.
const maxStderr = 4 << 10

// New checks the configuration and looks up the program. It starts nothing. Errors name the field at fault.
func New(c Config) (*Server, error) {
	c.StartTimeout = cmp.Or(c.StartTimeout, DefaultStartTimeout)
	c.CheckEvery = cmp.Or(c.CheckEvery, DefaultCheckEvery)
	c.MinBackoff = cmp.Or(c.MinBackoff, DefaultMinBackoff)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, max(DefaultMaxBackoff, c.MinBackoff))
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("mcp server %q: %w", cut.Marked(c.Name, 64), err)
	}
	s := &Server{config: c, log: c.Logger.With("server", c.Name), changed: make(chan struct{}), checkTimeout: c.StartTimeout}
	var err error
	if c.URL != "" {
		s.connect, err = newRemote(c)
	} else {
		s.connect, s.sandbox, err = newProgram(c)
	}
	if err != nil {
		return nil, fmt.Errorf("mcp server %q: %w", c.Name, err)
	}
	return s, nil
}

func (c Config) check() error {
	switch {
	case !isServerName(c.Name):
		return errors.New("field Name: a name is 1 to 64 letters, digits, '_' and '-'")
	case len(c.Tools) == 0:
		return errors.New("field Tools is required: name the tools that agents may be allowed")
	case (len(c.Command) == 0) == (c.URL == ""):
		return errors.New("fields Command and URL: give one of them")
	case c.URL != "" && (len(c.Env) > 0 || len(c.PassEnv) > 0 || c.Dir != "" || c.grants() || c.UnsafeNoSandbox):
		return errors.New("fields Env, PassEnv, Dir, and those of the sandbox are for programs; leave them out")
	case c.UnsafeNoSandbox && c.grants():
		return errors.New("fields Read, Write, Network and UnixSockets say nothing with UnsafeNoSandbox; leave them out")
	case c.URL == "" && c.Header != nil:
		return errors.New("field Header is for a URL; leave it out")
	case c.StartTimeout < 0 || c.CheckEvery < 0 || c.MinBackoff < 0 || c.MaxBackoff < c.MinBackoff:
		return errors.New("fields StartTimeout, CheckEvery, MinBackoff and MaxBackoff: not negative, and the last not below the one before")
	}
	return c.checkTools()
}

func (c Config) checkTools() error {
	for i, name := range c.Tools {
		if !isToolName(c.Name, name) {
			return fmt.Errorf("field Tools[%d] %q: a name is letters, digits, '_', '-' and '.', at most %d with the server's", i, cut.Marked(name, 64), maxToolName)
		}
		if slices.Contains(c.Tools[:i], name) {
			return fmt.Errorf("field Tools[%d]: %q is given twice", i, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pins)) {
		if !slices.Contains(c.Tools, name) {
			return fmt.Errorf("field Pins: %q is not one of Tools", cut.Marked(name, 64))
		}
	}
	return nil
}

const maxToolName = 128 // of package tool

func isServerName(s string) bool { return names.Is(s, 64, "_-") }

func isToolName(server, s string) bool { return names.Is(s, maxToolName-len(server)-1, "_-.") }

func (c Config) grants() bool { return len(c.Read)+len(c.Write) > 0 || c.Network || c.UnixSockets }

// newProgram returns how to connect to a program, and what confines it.
func newProgram(c Config) (connect, *sandbox.Policy, error) {
	if !process.Supported {
		return nil, nil, fmt.Errorf("programs can be run as servers on Unix only: %w", errors.ErrUnsupported)
	}
	p := program{args: c.Command[1:]}
	for _, step := range []func(*program) error{c.setPath, c.setDir, c.setEnvironment, c.setSandbox} {
		if err := step(&p); err != nil {
			return nil, nil, err
		}
	}
	return func(context.Context) (*carrier, error) { return p.start() }, p.sandbox, nil
}

func (c Config) setPath(p *program) error {
	path, err := exec.LookPath(c.Command[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		if lookup, ok := errors.AsType[*exec.Error](err); ok {
			err = lookup.Err
		}
		return fmt.Errorf("field Command: program %q: %w: install it, or give the path of an executable file", c.Command[0], err)
	}
	p.path = path
	return nil
}

func (c Config) setDir(p *program) (err error) {
	if p.dir, err = filepath.Abs(cmp.Or(c.Dir, ".")); err != nil {
		return fmt.Errorf("field Dir: %w", err)
	}
	if info, err := os.Stat(p.dir); err != nil || !info.IsDir() {
		return fmt.Errorf("field Dir %q: not a folder", c.Dir)
	}
	return nil
}

func (c Config) setEnvironment(p *program) (err error) {
	p.env, err = c.environment()
	return err
}

func (c Config) setSandbox(p *program) error {
	if c.UnsafeNoSandbox {
		return nil
	}
	s := &sandbox.Policy{Read: []string{p.path}, Network: c.Network, UnixSockets: c.UnixSockets, Limits: limits}
	if c.Dir != "" {
		s.Read = append(s.Read, p.dir)
	}
	if err := grant(&s.Read, "Read", c.Read); err != nil {
		return err
	}
	if err := grant(&s.Write, "Write", c.Write); err != nil {
		return err
	}
	s.Resolve()
	p.sandbox = s
	return nil
}

// grant adds paths, which have to be there.
func grant(to *[]string, field string, paths []string) error {
	for i, path := range paths {
		abs, err := filepath.Abs(path)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if path == "" {
			err = errors.New(`is empty; "." is the current directory`)
		}
		if err != nil {
			return fmt.Errorf("field %s[%d] %q: %w", field, i, path, ondisk.WithoutPath(err))
		}
		*to = append(*to, abs)
	}
	return nil
}

// limits hold for each process of a program, which lives long.
var limits = sandbox.Limits{Memory: 4 << 30, FileSize: 1 << 30, OpenFiles: 4096, Processes: 4096}

// Protections says what the server's program is kept from on this machine, and what not, and why. What the
// configuration grants is not mentioned. A server at a URL has none: it can do what it likes, where it is.
func (s *Server) Protections() []Protection {
	if s.config.URL != "" {
		return nil
	}
	if s.sandbox == nil {
		return []Protection{{"sandbox", false, "switched off by UnsafeNoSandbox"}}
	}
	var all []Protection
	for _, p := range s.sandbox.Protections() {
		all = append(all, Protection(p))
	}
	return all
}

// Protection is a thing that a program is kept from.
type Protection struct {
	Name    string // a word or two, such as "files" or "network"
	InForce bool
	Detail  string // by what, or why not
}

// String is the name and, in brackets, the detail.
func (p Protection) String() string { return fmt.Sprintf("%s (%s)", p.Name, p.Detail) }

func (c Config) environment() ([]string, error) {
	env := []string{} // not nil, which would be the environment of this process
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if !isVariable(name) || strings.Contains(c.Env[name], "\x00") {
			return nil, fmt.Errorf("field Env: %q: a name is not empty and holds no '='; neither it nor the value holds a NUL", name)
		}
		env = append(env, name+"="+c.Env[name])
	}
	for _, name := range c.PassEnv {
		if _, twice := c.Env[name]; twice || !isVariable(name) {
			return nil, fmt.Errorf("field PassEnv: %q: a name is not empty, holds no '=', and is not in Env too", name)
		}
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env, nil
}

func isVariable(name string) bool { return name != "" && !strings.ContainsAny(name, "=\x00") }
