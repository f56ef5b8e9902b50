// Package command makes a tool of a program.
//
// The program is given by the [Config], and so are the places of its arguments; a call's params fill in
// values and nothing else. What holds whatever the params are:
//
//   - There is no shell. Each template of Args becomes exactly one argument.
//   - A param becomes neither another argument nor an option. [New] refuses templates that would let
//     it, see [Config.Args].
//   - A param named in Paths is a path that lies, symbolic links resolved, within its directory, and leads to
//     nothing that Except names.
//   - The environment holds what Env and PassEnv name, and TMPDIR, a directory that is new, empty, and
//     removed after the call. It is the working directory too, unless Dir says otherwise.
//   - The program leads a session and process group of its own, without a terminal. The whole group is
//     killed when the call is cancelled or late, when it writes more than it may, and when the leader
//     exits. A process that leaves the group survives, but holds up the call for a second at most.
//   - Memory is bounded: output by the guard's limit, standard error by MaxStderr, of which the last
//     bytes are kept.
//
// On Linux, programs run in a sandbox, see [Config.Read] and the fields after it. Its parts depend on the kernel;
// [Tool.Protections] says which are in force.
//
//   - They read and execute the files of the system, Dir, the directories of Paths (see [Config.Except]), and what
//     is granted, and write to the working directory of the call and what is granted. Nothing else, whoever the user is.
//   - They have no network, reach no socket of this machine, signal no process outside, and set no limits of it.
//   - They gain no privileges: set-user-ID bits have no effect, and root has no capabilities but those over files.
//   - Processor time, memory, size of files, descriptors and processes are limited.
//   - They die when this process does, whatever ended it.
//
// A process that leaves the group stays in the sandbox, without a working directory of its own.
//
// What does not hold: a sandbox of this kind keeps a program from files and from the network, not from the
// kernel, whose faults it can try. File names and attributes can be looked at everywhere; contents cannot.
// Limits hold for each process, and there may be many. Nor can the package know what a program makes of its
// arguments: one that does not end its options at "--" or that reads files named in a value wants a wrapper.
// Between the check of a path and its use by the program, whoever may write to the directory can change what
// is there, though it leads to nothing that is not granted; only StdinFile, which is opened here, is safe from that.
//
// It works on Unix. Where the kernel is not Linux, there is no sandbox, and processes in the background that keep
// the standard output open after the leader's exit make the call fail instead of being ended in time.
package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/internal/sandbox"
	"github.com/converge-agents/converge/internal/template"
	"github.com/converge-agents/converge/tool"
)

// What becomes of the standard output: values of [Config.Output].
const (
	Text  = "text"  // as it is, without one newline at its end; text/plain
	Word  = "word"  // its first word, of those that white space separates; text/plain
	JSON  = "json"  // as it is, if it is valid JSON, else an error; application/json
	Bytes = "bytes" // as it is; application/octet-stream
)

// DefaultMaxStderr is the default of [Config.MaxStderr].
const DefaultMaxStderr = 4 << 10

// Config describes a program as a tool.
//
// Args, Stdin and StdinFile are templates. In a template, {name} stands for the param of that name,
// which is then required; names are made of letters, digits, '_' and '-'. {{ and }} stand for braces.
// A param is a string, a number or a boolean; numbers are written as in the params.
type Config struct {
	// Name is the tool's name; required.
	Name string
	// Description says, for people and models, what the tool does.
	Description string
	// Program is the program's path, or its name if it is to be looked up in PATH; required. It is
	// looked up once, by New.
	Program string
	// Args are the templates of the arguments, one each. So that a param cannot become an option, a
	// placeholder has to come after an element that is "--", or after text in its own element; and if
	// that text begins with '-', it has to hold a '=' as in --name={param}. If Program is a shell, only
	// the former will do.
	Args []string
	// Stdin is the template of the standard input; "" is an empty one. Not together with StdinFile.
	Stdin string
	// StdinFile names a regular file that is opened as the standard input: a path without
	// placeholders, relative to the current directory at New, or one placeholder alone, whose param
	// has to be in Paths.
	StdinFile string
	// Env are variables of the environment; their values are no templates.
	Env map[string]string
	// PassEnv names variables that the program gets from this process, as they are at New. Those that
	// are not set are left out.
	PassEnv []string
	// Dir is the working directory; it has to exist. "." is the current directory at New. "" is a
	// directory that is made for each call, empty, and removed after it. The program may read it, but write
	// to it only if it is in Write too.
	Dir string
	// Paths names params that are paths, each with the directory that the value has to lie within.
	// The directory has to exist; it is relative to the current directory at New. Relative values are
	// taken from it. The file itself need not exist, but the directory that it is in. The program gets
	// the absolute path, symbolic links resolved. In an argument, nothing may follow such a
	// placeholder, and neither '/' nor another placeholder come right before it.
	Paths map[string]string
	// Except names files and directories that no param in Paths may name, lie in, or hold, such as one with keys. They
	// need not exist. Those that lie in a directory of Paths keep the sandbox from granting it whole: the
	// program may then read what the params of its call name, and no more of it. Where a directory of Paths lies in one of
	// them, that is what the caller wanted. Dir, Read and Write are granted as they are.
	Except []string
	// Output says what becomes of the standard output: "text", which is the default, "word", "json"
	// or "bytes"; see [Text] and its neighbours.
	Output string
	// MaxStderr bounds the bytes of the standard error that an [ExitError] keeps. 0 is
	// [DefaultMaxStderr].
	MaxStderr int

	// Read names files and directories that the program may read and execute, and Write those that it may
	// change too, both with all below them; relative to the current directory at New. They have to exist. Symbolic
	// links are followed by New; where there is one later, calls fail. By
	// itself the program may read those of the system (/usr, /lib and their like, of /etc what has no
	// secrets and no users), itself, Dir, and the directories in Paths, and write to TMPDIR, which is made for each
	// call.
	Read, Write []string
	// Network lets the program use IP. It is then up to it where it connects.
	Network bool
	// UnixSockets lets the program connect to sockets of this machine, whose owners may do anything for it.
	UnixSockets bool
	// Limits bound what a process of the program uses. What is 0 is that of [DefaultLimits].
	Limits Limits
	// RequireSandbox makes New fail where a protection is not in force; the limit of processes is not among them.
	RequireSandbox bool
	// UnsafeNoSandbox runs the program without a sandbox and without limits: it may do what this process may.
	// Not together with the fields from Read on.
	UnsafeNoSandbox bool
}

// Tool is a program as a [tool.Tool]. It is a [tool.Describer] too. It holds nothing between calls and
// needs no closing.
type Tool struct {
	name, description string
	program           string // absolute
	args              []template.Template
	stdin             template.Template
	stdinFile         template.Template
	env               []string
	dir               string // absolute; "" is a new one for each call
	paths             map[string]confined
	params            []string // sorted
	output            string
	maxStderr         int
	sandbox           *sandbox.Policy // without what a call adds; nil if there is none
}

// New checks the whole configuration, looks up the program and resolves directories. Its errors name
// the field at fault and say what to do about it. Where the system is not Unix, it wraps
// [errors.ErrUnsupported].
func New(c Config) (*Tool, error) {
	t, err := c.build()
	if err != nil {
		return nil, fmt.Errorf("command tool %q: %w", c.Name, err)
	}
	return t, nil
}

func (c Config) build() (*Tool, error) {
	t := &Tool{
		name:        c.Name,
		description: c.Description,
		output:      cmp.Or(c.Output, Text),
		maxStderr:   cmp.Or(c.MaxStderr, DefaultMaxStderr),
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	for _, step := range []func(*Tool) error{c.setProgram, c.setDir, c.setPaths, c.setExcept, c.setArgs, c.setStdin, c.setEnv, c.setSandbox} {
		if err := step(t); err != nil {
			return nil, err
		}
	}
	t.params = t.names()
	return t, c.checkPathsUsed(t.params)
}

func (c Config) check() error {
	switch {
	case !supported:
		return fmt.Errorf("programs can be run as tools on Unix only: %w", errors.ErrUnsupported)
	case c.Name == "":
		return errors.New("field Name is required")
	case c.Program == "":
		return errors.New("field Program is required")
	case c.Stdin != "" && c.StdinFile != "":
		return errors.New("fields Stdin and StdinFile: give one of them")
	case c.MaxStderr < 0:
		return errors.New("field MaxStderr is negative; 0 means its default")
	case c.UnsafeNoSandbox && c.asksForSandbox():
		return errors.New("field UnsafeNoSandbox: not together with fields of the sandbox: leave it, or Read, Write, Network, UnixSockets, Limits and RequireSandbox, out")
	case !slices.Contains([]string{"", Text, Word, JSON, Bytes}, c.Output):
		return fmt.Errorf("field Output is %q; give %s, %s, %s or %s", c.Output, Text, Word, JSON, Bytes)
	}
	return nil
}

func (c Config) setProgram(t *Tool) error {
	path, err := exec.LookPath(c.Program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		cause := err
		if lookup, ok := errors.AsType[*exec.Error](err); ok {
			cause = lookup.Err
		}
		return fmt.Errorf("field Program %q: %w: install it, or give the path of an executable file", c.Program, cause)
	}
	t.program = path
	return nil
}

func (c Config) setDir(t *Tool) (err error) {
	if c.Dir == "" {
		return nil
	}
	t.dir, err = directory(c.Dir)
	if err != nil {
		return fmt.Errorf("field Dir %q: %w", c.Dir, err)
	}
	return nil
}

// directory returns the absolute path of a directory, which has to exist.
func directory(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", withoutPath(err)
	}
	if !info.IsDir() {
		return "", errors.New("not a directory")
	}
	return abs, nil
}

func (c Config) setPaths(t *Tool) error {
	t.paths = map[string]confined{}
	for _, param := range slices.Sorted(maps.Keys(c.Paths)) {
		within, err := confine(c.Paths[param])
		if err != nil {
			return fmt.Errorf("field Paths[%q] %q: %w", param, c.Paths[param], err)
		}
		t.paths[param] = within
	}
	return nil
}

func (c Config) checkPathsUsed(params []string) error {
	for param := range c.Paths {
		if !slices.Contains(params, param) {
			return fmt.Errorf("field Paths names the param %q, but no template holds {%s}", param, param)
		}
	}
	return nil
}

func (c Config) setEnv(t *Tool) error {
	t.env = []string{} // not nil, which would be the environment of this process
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if err := checkVariable(name, c.Env[name]); err != nil {
			return fmt.Errorf("field Env: %w", err)
		}
		t.env = append(t.env, name+"="+c.Env[name])
	}
	for _, name := range c.PassEnv {
		if err := checkVariable(name, ""); err != nil {
			return fmt.Errorf("field PassEnv: %w", err)
		}
		if _, twice := c.Env[name]; twice {
			return fmt.Errorf("field PassEnv: %q is in Env too: give one of them", name)
		}
		if value, ok := os.LookupEnv(name); ok {
			t.env = append(t.env, name+"="+value)
		}
	}
	return nil
}

func checkVariable(name, value string) error {
	if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
		return fmt.Errorf("%q: a name is not empty and holds no '='; neither it nor the value holds a NUL", name)
	}
	return nil
}

// names returns the names of all params, sorted.
func (t *Tool) names() []string {
	var names []string
	for _, tmpl := range append([]template.Template{t.stdin, t.stdinFile}, t.args...) {
		names = append(names, tmpl.Params()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Name implements [tool.Tool].
func (t *Tool) Name() string { return t.name }

// Description implements [tool.Describer].
func (t *Tool) Description() string { return t.description }

// InputSchema implements [tool.Describer]: an object that holds each param of the templates, and
// nothing else. The schema is the caller's own.
func (t *Tool) InputSchema() *jsonschema.Schema {
	schema := &jsonschema.Schema{
		Type:                 "object",
		Properties:           map[string]*jsonschema.Schema{},
		Required:             slices.Clone(t.params),
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
		PropertyOrder:        slices.Clone(t.params),
	}
	for _, name := range t.params {
		if _, isPath := t.paths[name]; isPath {
			schema.Properties[name] = &jsonschema.Schema{Type: "string", Description: "a path within the directory that the tool may use; relative paths are taken from there"}
		} else {
			schema.Properties[name] = &jsonschema.Schema{Types: []string{"string", "number", "boolean"}}
		}
	}
	return schema
}

// Run implements [tool.Tool]. It starts the program, and returns its output when it has exited with
// status 0. Other ends are an [*ExitError]; params that do not fit wrap [tool.ErrInvalidParams], output
// beyond [tool.OutputLimit], or beyond [tool.DefaultMaxOutput] without a guard, wraps
// [tool.ErrOutputTooLarge], and the end of ctx wraps its cause. No error holds a param's value or what
// the program wrote, but for the field Stderr.
func (t *Tool) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	values, err := t.values(params)
	if err != nil {
		return tool.Output{}, err
	}
	stdout, err := t.start(ctx, values)
	if err != nil {
		return tool.Output{}, err
	}
	return format(t.output, stdout)
}

// start runs the program with the values filled in and returns what it wrote.
func (t *Tool) start(ctx context.Context, values map[string]string) (stdout []byte, err error) {
	p := process{path: t.program, dir: t.dir, maxStderr: t.maxStderr, maxOutput: tool.DefaultMaxOutput}
	if limit, ok := tool.OutputLimit(ctx); ok {
		p.maxOutput = limit
	}
	for _, arg := range t.args {
		p.args = append(p.args, arg.Fill(values))
	}
	switch {
	case t.stdin != nil:
		p.stdin = strings.NewReader(t.stdin.Fill(values))
	case t.stdinFile != nil:
		file, err := t.openStdin(values)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		p.stdin = file
	}
	temp, err := filepath.EvalSymlinks(os.TempDir()) // the sandbox follows no links
	if err != nil {
		return nil, fmt.Errorf("make the working directory: %w", err)
	}
	own, err := os.MkdirTemp(temp, "converge-tool-")
	if err != nil {
		return nil, fmt.Errorf("make the working directory: %w", err)
	}
	defer func() { err = cmp.Or(err, removeAll(own)) }()
	p.dir = cmp.Or(p.dir, own)
	p.env = t.environment(own)
	p.sandbox = t.policy(ctx, own, t.named(values))
	return p.run(ctx)
}
