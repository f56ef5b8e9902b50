// Package wasm makes a tool of a WebAssembly module: a program for WASI preview 1, as compilers for Go (GOOS=wasip1),
// Rust, C and others make it.
//
// The convention: the params of a call, a JSON object, are the module's standard input, and what it writes to its
// standard output is the tool's. Arguments and environment are those of the [Config], whatever the params are. The
// module has to export _start, and ends by returning from it or by proc_exit; a status that is not 0 is an [ExitError].
// Its standard error is kept for that error, the last bytes of it.
//
// A module is compiled once, by New, and instantiated anew for each call, so no call sees anything of another. It has
// what the Config grants, and nothing else of this machine:
//
//   - Files below the directories in Mounts, and there nothing that a symbolic link leads out to, no device, no pipe.
//     Without Mounts it has no files.
//   - The time, if Clock is set. Otherwise its clocks begin at the same instant in each call and go on by a
//     millisecond whenever they are read, and sleeping takes no time.
//   - Randomness, if Random is set. Otherwise its random numbers are the same in each call.
//   - No network. WASI preview 1 has no way to open a connection.
//
// It is stopped when the call is cancelled or late, wherever it is, busy loops included, and when it writes more than
// it may. Its memory is bounded by MaxMemory, its tables by a million entries, and its stack by the runtime, at about
// 100 MB.
//
// The runtime is wazero, which translates to machine code on amd64 and arm64 and interprets elsewhere. The boundary is
// its correctness: a module runs in this process.
package wasm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/converge-agents/converge/internal/capture"
	"github.com/converge-agents/converge/internal/inflight"
	"github.com/converge-agents/converge/internal/ondisk"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/tool"
)

// What the standard output is: values of [Config.Output].
const (
	Text  = "text"  // as it is, without one newline at its end; text/plain
	JSON  = "json"  // as it is, if it is valid JSON, else an error; application/json
	Bytes = "bytes" // as it is; application/octet-stream
)

// Defaults and bounds of a [Config].
const (
	DefaultMaxMemory = 64 << 20
	DefaultMaxStderr = 4 << 10
	MaxModule        = 64 << 20 // bytes of a module

	pageSize = 64 << 10
	maxPages = 1 << 16
)

// Config describes a module as a tool.
type Config struct {
	// Name is the tool's name; required.
	Name string
	// Description says, for people and models, what the tool does.
	Description string
	// Schema is what params have to match; nil takes any JSON object.
	Schema *jsonschema.Schema
	// File is the module's file, of at most [MaxModule] bytes; required. It is read once, by New.
	File string
	// SHA256 is what the hash of the file has to be, in hex; "" takes any.
	SHA256 string
	// Args are the arguments, after the tool's name, and Env the environment.
	Args []string
	Env  map[string]string
	// Mounts are the directories that the module sees.
	Mounts []Mount
	// Clock shows what time it is, and lets the module sleep.
	Clock bool
	// Random gives randomness of the system.
	Random bool
	// MaxMemory bounds the linear memory of a call, in bytes: from 64 KiB to 4 GiB, rounded up to pages of 64 KiB. 0 is
	// [DefaultMaxMemory].
	MaxMemory int64
	// MaxStderr bounds the bytes of the standard error that an [ExitError] keeps. 0 is [DefaultMaxStderr].
	MaxStderr int
	// Output says what the standard output is: "text", which is the default, "json" or "bytes".
	Output string
	// Cache keeps what a module was compiled to, for other tools of the same module. It has to outlive the tool. nil
	// keeps nothing.
	Cache *Cache
}

// Cache keeps compiled modules in memory. It is safe for concurrent use.
type Cache struct{ cache wazero.CompilationCache }

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{wazero.NewCompilationCache()} }

// Close frees what is kept. Close the tools first.
func (c *Cache) Close() error { return c.cache.Close(context.Background()) }

// Mount is a directory that a module sees.
type Mount struct {
	// Dir is the directory; it has to exist, and is taken as it is at each call.
	Dir string
	// At is the absolute path by which the module knows it.
	At string
	// Write lets the module change what is in it, by at most 1 GiB a call, of which each file or directory that it makes
	// takes 4 KiB. Links it cannot make.
	Write bool
}

// Tool is a module as a [tool.Tool]. It is a [tool.Describer] too. Close it when it is no longer needed.
type Tool struct {
	config  Config
	runtime wazero.Runtime
	module  wazero.CompiledModule

	calls inflight.Group
	ended context.Context // when Close is called
	end   context.CancelCauseFunc
}

// ErrClosed is the error of calls of a tool that has been closed.
var ErrClosed = errors.New("the tool is closed")

// New checks the whole configuration, and reads and compiles the module, which takes seconds if it has some megabytes.
// Its errors name the field at fault.
func New(c Config) (*Tool, error) {
	t, err := c.build()
	if err != nil {
		return nil, fmt.Errorf("wasm tool %q: %w", c.Name, err)
	}
	return t, nil
}

func (c Config) build() (*Tool, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.MaxMemory = cmp.Or(c.MaxMemory, DefaultMaxMemory)
	c.MaxStderr = cmp.Or(c.MaxStderr, DefaultMaxStderr)
	c.Env, c.Args, c.Mounts = maps.Clone(c.Env), slices.Clone(c.Args), slices.Clone(c.Mounts)
	binary, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("field File %q: %w", c.File, err)
	}
	t := &Tool{config: c}
	t.ended, t.end = context.WithCancelCause(context.Background())
	if err := t.compile(binary); err != nil {
		return nil, errors.Join(fmt.Errorf("field File %q: %w", c.File, err), t.Close())
	}
	return t, nil
}

func (c Config) check() error {
	switch {
	case c.Name == "":
		return errors.New("field Name is required")
	case c.File == "":
		return errors.New("field File is required")
	case c.MaxMemory != 0 && (c.MaxMemory < pageSize || c.MaxMemory > maxPages*pageSize):
		return fmt.Errorf("field MaxMemory is %d; give %d to %d, or 0 for its default", c.MaxMemory, pageSize, maxPages*pageSize)
	case c.MaxStderr < 0:
		return errors.New("field MaxStderr is negative; 0 means its default")
	case !slices.Contains([]string{"", Text, JSON, Bytes}, c.Output):
		return fmt.Errorf("field Output is %q; give %s, %s or %s", c.Output, Text, JSON, Bytes)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(c.Env[name], "\x00") {
			return fmt.Errorf("field Env: %q: a name is not empty and holds no '='; neither it nor the value holds a NUL", name)
		}
	}
	for i, arg := range c.Args {
		if strings.Contains(arg, "\x00") {
			return fmt.Errorf("field Args[%d]: an argument holds no NUL", i)
		}
	}
	return c.checkMounts()
}

func (c Config) checkMounts() error {
	places := map[string]bool{}
	for i, m := range c.Mounts {
		info, err := os.Stat(m.Dir)
		switch {
		case m.Dir == "":
			return fmt.Errorf("field Mounts[%d].Dir is required", i)
		case err != nil:
			return fmt.Errorf("field Mounts[%d].Dir: %w", i, err)
		case !info.IsDir():
			return fmt.Errorf("field Mounts[%d].Dir %q: not a directory", i, m.Dir)
		case !path.IsAbs(m.At) || path.Clean(m.At) != m.At:
			return fmt.Errorf("field Mounts[%d].At %q: give an absolute path, such as /data", i, m.At)
		case places[m.At]:
			return fmt.Errorf("field Mounts[%d].At %q is given twice", i, m.At)
		}
		places[m.At] = true
	}
	return nil
}

// read returns the module, its hash checked.
func (c Config) read() ([]byte, error) {
	file, err := os.Open(c.File)
	if err != nil {
		return nil, ondisk.WithoutPath(err)
	}
	defer file.Close()
	binary, err := readModule(file)
	if err != nil {
		return nil, ondisk.WithoutPath(err)
	}
	sum := sha256.Sum256(binary)
	if got := hex.EncodeToString(sum[:]); c.SHA256 != "" && !strings.EqualFold(got, c.SHA256) {
		return nil, fmt.Errorf("its SHA-256 is %s, not %s as in the field SHA256: it is not the module that was meant", got, c.SHA256)
	}
	return binary, nil
}

// readModule reads no more than a module may have, whatever the file says of its size.
func readModule(file *os.File) ([]byte, error) {
	tooLarge := fmt.Errorf("more than %d bytes", MaxModule)
	if info, err := file.Stat(); err == nil && info.Size() > MaxModule {
		return nil, tooLarge
	}
	binary, err := io.ReadAll(io.LimitReader(file, MaxModule+1))
	if err == nil && len(binary) > MaxModule {
		err = tooLarge
	}
	return binary, err
}

func (t *Tool) compile(binary []byte) error {
	ctx := context.Background() // the compiler does not look at it
	binary, err := boundTables(binary)
	if err != nil {
		return err
	}
	pages := uint32((t.config.MaxMemory + pageSize - 1) / pageSize)
	c := wazero.NewRuntimeConfig().WithCloseOnContextDone(true).WithMemoryLimitPages(pages).WithDebugInfoEnabled(false)
	if t.config.Cache != nil {
		c = c.WithCompilationCache(t.config.Cache.cache)
	}
	t.runtime = wazero.NewRuntimeWithConfig(ctx, c)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, t.runtime); err != nil {
		return err
	}
	wasi := t.runtime.Module(wasi_snapshot_preview1.ModuleName).ExportedFunctionDefinitions()
	if t.module, err = t.runtime.CompileModule(ctx, binary); err != nil {
		return fmt.Errorf("not a module that can run here: %w", err)
	}
	if _, ok := t.module.ExportedFunctions()["_start"]; !ok {
		return errors.New("it exports no function _start: compile it as a command, not as a library (reactor)")
	}
	if len(t.module.ImportedMemories()) > 0 {
		return errors.New("it imports a memory; it has to have its own")
	}
	for _, f := range t.module.ImportedFunctions() {
		module, name, _ := f.Import()
		if module != wasi_snapshot_preview1.ModuleName || wasi[name] == nil {
			return fmt.Errorf("it imports %s.%s, and gets %s alone: compile it for WASI preview 1", module, name, wasi_snapshot_preview1.ModuleName)
		}
	}
	return nil
}

// Close stops calls that run, waits until they have ended, and frees the module.
func (t *Tool) Close() error {
	t.calls.Shut()
	t.end(ErrClosed)
	t.calls.Wait()
	if t.runtime == nil {
		return nil
	}
	return t.runtime.Close(context.Background())
}

// Name implements [tool.Tool].
func (t *Tool) Name() string { return t.config.Name }

// Description implements [tool.Describer].
func (t *Tool) Description() string { return t.config.Description }

// InputSchema implements [tool.Describer]: the schema of the Config.
func (t *Tool) InputSchema() *jsonschema.Schema { return t.config.Schema }

// Annotations implements [tool.Annotated]: without a directory to write to, a module changes nothing.
func (t *Tool) Annotations() tool.Annotations {
	writes := slices.ContainsFunc(t.config.Mounts, func(m Mount) bool { return m.Write })
	return tool.Annotations{ReadOnly: !writes}
}

// Run implements [tool.Tool]. Ends but by status 0 are an [*ExitError] or a [*TrapError], output beyond
// [tool.OutputLimit], or beyond [tool.DefaultMaxOutput] without a guard, wraps [tool.ErrOutputTooLarge], and the end of
// ctx wraps its cause. No error's text holds what is in the params or what the module wrote.
func (t *Tool) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	if !t.calls.Begin() {
		return tool.Output{}, ErrClosed
	}
	defer t.calls.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ended, func() { cancel(context.Cause(t.ended)) })()
	if ctx.Err() != nil {
		return tool.Output{}, fmt.Errorf("not started: %w", context.Cause(ctx))
	}
	if len(params) == 0 {
		params = json.RawMessage("{}")
	}
	limit, ok := tool.OutputLimit(ctx)
	if !ok {
		limit = tool.DefaultMaxOutput
	}
	stdout := &capture.Capped{Limit: limit, Full: func() { cancel(capture.ErrFull) }}
	stderr := &capture.Tail{Limit: t.config.MaxStderr}
	err := t.instantiate(ctx, bytes.NewReader(params), stdout, stderr)
	switch {
	case stdout.Over():
		return tool.Output{}, fmt.Errorf("%w: more than %d bytes", tool.ErrOutputTooLarge, limit)
	case ctx.Err() != nil: // also if the module has ended by itself, having been woken
		return tool.Output{}, fmt.Errorf("stopped: %w", context.Cause(ctx))
	case err != nil:
		return tool.Output{}, ended(err, stderr.String())
	}
	return format(t.config.Output, stdout.Bytes())
}

// instantiate runs the module from its start to its end.
func (t *Tool) instantiate(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	c := wazero.NewModuleConfig().WithName("").WithStdin(stdin).WithStdout(stdout).WithStderr(stderr).
		WithArgs(append([]string{t.config.Name}, t.config.Args...)...)
	for _, name := range slices.Sorted(maps.Keys(t.config.Env)) {
		c = c.WithEnv(name, t.config.Env[name])
	}
	if t.config.Clock {
		c = c.WithSysWalltime().WithSysNanotime().WithNanosleep(func(ns int64) { _ = sleep.For(ctx, time.Duration(ns)) })
	}
	if t.config.Random {
		c = c.WithRandSource(rand.Reader)
	}
	files, shared := wazero.NewFSConfig(), &session{}
	defer shared.close()
	for _, m := range t.config.Mounts {
		root, err := os.OpenRoot(m.Dir)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.At, ondisk.WithoutPath(err))
		}
		defer root.Close()
		files = files.(sysfs.FSConfig).WithSysFSMount(&folder{root: root, write: m.Write, session: shared}, m.At)
	}
	module, err := t.runtime.InstantiateModule(ctx, t.module, c.WithFSConfig(files))
	if module != nil {
		err = errors.Join(err, module.Close(context.WithoutCancel(ctx)))
	}
	return err
}
