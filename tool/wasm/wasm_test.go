package wasm_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/internal/held"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/wasm"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := assembled(t, module{code: spin})
	binary, err := os.ReadFile(good.File)
	if err != nil {
		t.Fatal(err)
	}
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "m.wasm")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	huge := filepath.Join(dir, "huge")
	if err := errors.Join(os.WriteFile(huge, nil, 0o600), os.Truncate(huge, wasm.MaxModule+1)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*wasm.Config)
		want   []string
	}{
		"no name":      {func(c *wasm.Config) { c.Name = "" }, []string{"Name is required"}},
		"no file":      {func(c *wasm.Config) { c.File = "" }, []string{"File is required"}},
		"missing file": {func(c *wasm.Config) { c.File = dir + "/none" }, []string{"field File", "no such file"}},
		"too large":    {func(c *wasm.Config) { c.File = huge }, []string{"more than 67108864 bytes"}},
		"other hash":   {func(c *wasm.Config) { c.SHA256 = strings.Repeat("0", 64) }, []string{"SHA256", "not the module that was meant"}},
		"no module":    {func(c *wasm.Config) { c.File = write("#!/bin/sh") }, []string{"not a WebAssembly module"}},
		"cut off":      {func(c *wasm.Config) { c.File = write(string(binary[:len(binary)-3])) }, []string{"not a"}},
		"no start":     {func(c *wasm.Config) { c.File = assembled(t, module{code: spin, export: "run"}).File }, []string{"_start", "reactor"}},
		"foreign import": {func(c *wasm.Config) {
			c.File = assembled(t, module{code: spin, from: "env", imports: []string{"steal"}}).File
		}, []string{"env.steal", "preview 1"}},
		"unknown import":    {func(c *wasm.Config) { c.File = assembled(t, module{code: spin, imports: []string{"steal"}}).File }, []string{"wasi_snapshot_preview1.steal"}},
		"memory beyond max": {func(c *wasm.Config) { c.File, c.MaxMemory = assembled(t, module{code: spin, memory: 2}).File, 1<<16 }, []string{"memory"}},
		"huge table": {func(c *wasm.Config) {
			c.File = assembled(t, module{code: spin, table: []byte{0, 0x80, 0x80, 0x80, 0x20}}).File
		}, []string{"67108864 entries"}},
		"odd table":        {func(c *wasm.Config) { c.File = assembled(t, module{code: spin, table: []byte{9, 0}}).File }, []string{"not understood"}},
		"little memory":    {func(c *wasm.Config) { c.MaxMemory = 1 }, []string{"MaxMemory"}},
		"stderr":           {func(c *wasm.Config) { c.MaxStderr = -1 }, []string{"MaxStderr"}},
		"output":           {func(c *wasm.Config) { c.Output = "xml" }, []string{`Output is "xml"`}},
		"variable":         {func(c *wasm.Config) { c.Env = map[string]string{"a=b": ""} }, []string{"Env", `"a=b"`}},
		"argument":         {func(c *wasm.Config) { c.Args = []string{"\x00"} }, []string{"Args[0]"}},
		"no folder":        {func(c *wasm.Config) { c.Mounts = []wasm.Mount{{At: "/d"}} }, []string{"Mounts[0].Dir"}},
		"missing folder":   {func(c *wasm.Config) { c.Mounts = []wasm.Mount{{Dir: dir + "/none", At: "/d"}} }, []string{"Mounts[0].Dir", "no such file"}},
		"folder is a file": {func(c *wasm.Config) { c.Mounts = []wasm.Mount{{Dir: good.File, At: "/d"}} }, []string{"not a directory"}},
		"relative place":   {func(c *wasm.Config) { c.Mounts = []wasm.Mount{{Dir: dir, At: "d"}} }, []string{"Mounts[0].At", "/data"}},
		"place twice":      {func(c *wasm.Config) { c.Mounts = []wasm.Mount{{Dir: dir, At: "/d"}, {Dir: dir, At: "/d"}} }, []string{"Mounts[1].At", "twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			c.change(&config)
			it, err := wasm.New(config)
			if err == nil {
				it.Close()
			}
			wantErr(t, err, append(c.want, "wasm tool")...)
		})
	}
	sum := sha256.Sum256(binary)
	good.SHA256 = strings.ToUpper(hex.EncodeToString(sum[:]))
	newTool(t, good)
}

func TestWaysToEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		m    module
		want string // of the error; "" is none
	}{
		"unreachable":          {module{code: unreachable}, "trapped: unreachable"},
		"endless recursion":    {module{code: recurse}, "trapped: stack overflow"},
		"beyond memory":        {module{code: outOfBounds}, "trapped: out of bounds"},
		"division by zero":     {module{code: divide}, "trapped: integer divide by zero"},
		"exit 0":               {module{code: exit0, imports: []string{"proc_exit"}}, ""},
		"exit as if cancelled": {module{code: exitCancel, imports: []string{"proc_exit"}}, "exit status 4294967295"},
		"memory hog":           {module{code: growMemory}, ""},
		"table hog":            {module{code: growTable, table: []byte{0, 1}}, ""},
		"table hog with max":   {module{code: growTable, table: []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := assembled(t, c.m)
			config.MaxMemory = 16 << 20
			_, err := run(t, config, "")
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want && !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("error %v; want %q", err, c.want)
			}
			if _, isTrap := errors.AsType[*wasm.TrapError](err); isTrap != strings.HasPrefix(c.want, "trapped") {
				t.Errorf("error %#v", err)
			}
		})
	}
}

func TestBusyLoopIsStopped(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]module{"spin": {code: spin}, "yield": {code: yield, imports: []string{"sched_yield"}}} {
		it := newTool(t, assembled(t, m))
		err := runFor(t, it, 20*time.Millisecond)
		for longer := 40 * time.Millisecond; strings.Contains(err.Error(), "not started"); longer *= 2 { // on a busy machine
			err = runFor(t, it, longer)
		}
		if wantErr(t, err, "stopped", "too late"); err == nil {
			t.Error(name)
		}
		g := guard(t, it, tool.Options{Timeout: 20 * time.Millisecond})
		if _, err := g.Run(t.Context(), "it", nil); !errors.Is(err, tool.ErrTimeout) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := g.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// runFor runs a tool that does not end.
func runFor(t *testing.T, it *wasm.Tool, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errors.New("too late"))
	defer cancel()
	_, err := it.Run(ctx, nil)
	if err == nil {
		t.Fatal("it has ended")
	}
	return err
}

func guard(t *testing.T, it tool.Tool, o tool.Options) *tool.Guard {
	t.Helper()
	tools := tool.NewRegistry()
	if err := tools.Register(it, o); err != nil {
		t.Fatal(err)
	}
	g, err := tool.NewGuard(tool.GuardConfig{Tools: tools, Allowlist: []string{it.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEndlessOutputIsCutOff(t *testing.T) {
	t.Parallel()
	it := newTool(t, assembled(t, module{code: flood, imports: []string{"fd_write"}, data: iovec}))
	if _, err := it.Run(t.Context(), nil); !errors.Is(err, tool.ErrOutputTooLarge) {
		t.Errorf("error %v", err)
	}
	g := guard(t, it, tool.Options{MaxOutput: 10})
	if _, err := g.Run(t.Context(), "it", nil); !errors.Is(err, tool.ErrOutputTooLarge) || !strings.Contains(err.Error(), "10 bytes") {
		t.Errorf("error %v", err)
	}
}

func TestOutputModes(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{"": "text/plain", wasm.JSON: "application/json", wasm.Bytes: "application/octet-stream"} {
		c := assembled(t, module{code: hello, imports: []string{"fd_write"}, data: helloData})
		c.Output = mode
		out, err := newTool(t, c).Run(t.Context(), nil)
		text := "{}\n"
		if mode == "" {
			text = "{}"
		}
		if err != nil || string(out.Data) != text || out.ContentType != want {
			t.Errorf("%q: %q (%s), %v", mode, out.Data, out.ContentType, err)
		}
	}
	c := assembled(t, module{code: hello, imports: []string{"fd_write"}, data: strings.Replace(helloData, "{}", "hu", 1)})
	c.Output = wasm.JSON
	_, err := run(t, c, "")
	if wantErr(t, err, "valid JSON"); strings.Contains(err.Error(), "hu\n") {
		t.Errorf("the error holds output: %v", err)
	}
}

func TestSchemaIsThatOfTheConfig(t *testing.T) {
	t.Parallel()
	c := assembled(t, module{code: []byte{}})
	c.Schema = &jsonschema.Schema{Type: "object", Required: []string{"a"}}
	c.Description = "does it"
	it := newTool(t, c)
	g := guard(t, it, tool.Options{})
	if _, err := g.Run(t.Context(), "it", nil); !errors.Is(err, tool.ErrInvalidParams) {
		t.Errorf("error %v", err)
	}
	if it.Description() != "does it" || !it.Annotations().ReadOnly {
		t.Error("description or annotations")
	}
}

// Calls that hang leave nothing behind, their memory included.
func TestThousandHungCallsLeaveNothingBehind(t *testing.T) {
	c := assembled(t, module{code: sleep, imports: []string{"poll_oneoff"}, data: hour, memory: 16}) // 1 MiB each
	c.Clock = true
	it, err := wasm.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	before, memory := held.Now(t), heap()
	var calls sync.WaitGroup
	for range 1000 {
		calls.Go(func() {
			if _, err := it.Run(ctx, nil); !errors.Is(err, context.Canceled) && !errors.Is(err, wasm.ErrClosed) {
				t.Errorf("error %v", err)
			}
		})
	}
	mostMemory := heap()
	for ; mostMemory < memory+1000<<20; mostMemory = heap() { // until all modules are there
		runtime.Gosched()
	}
	most := held.Now(t)
	cancel()
	calls.Wait()
	after := heap()
	if after > memory+100<<20 {
		t.Errorf("%d MiB are in use, %d MiB were", after>>20, memory>>20)
	}
	t.Logf("1000 modules hang: before, %v, %d MiB; meanwhile, %v, %d MiB; given up, %v, %d MiB",
		before, memory>>20, most, mostMemory>>20, before.AtMost(t), after>>20)
	if err := it.Close(); err != nil {
		t.Error(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestCloseStopsCalls(t *testing.T) {
	t.Parallel()
	it, err := wasm.New(assembled(t, module{code: yield, imports: []string{"sched_yield"}}))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := it.Run(context.Background(), nil)
		failed <- err
	}()
	if err := it.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, wasm.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := it.Run(t.Context(), nil); !errors.Is(err, wasm.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if err := it.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
