//go:build unix

package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/command"
)

// The test binary is the program of most tests: run with the first argument "helper", it does what the
// second says.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		helper(os.Args[2], os.Args[3:])
		syscall.Exit(0) // unlike os.Exit, does not give the race detector a second to report
	}
	goleak.VerifyTestMain(m)
}

func helper(what string, args []string) {
	switch what {
	case "args":
		print(args)
	case "env":
		print(os.Environ())
	case "dir":
		dir, _ := os.Getwd()
		entries, err := os.ReadDir(".")
		print([]string{dir, fmt.Sprint(len(entries)), fmt.Sprint(err)})
	case "stubborn": // leaves a directory that cannot be removed at once
		os.MkdirAll("a/b", 0o700)
		os.Chmod("a", 0)
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "session":
		pid := os.Getpid()
		tty, err := os.Open("/dev/tty")
		if err == nil {
			tty.Close()
		}
		print([]string{fmt.Sprint(syscall.Getpgrp() == pid), fmt.Sprint(err != nil)})
	case "flood":
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 1000)); err != nil {
				time.Sleep(time.Hour) // a closed pipe does not make it stop
			}
		}
	case "escape": // a process in a session of its own keeps the output open
		fifo, _ := os.OpenFile(args[0], os.O_WRONLY, 0)
		child := exec.Command(os.Args[0], "helper", "hang")
		child.Stdout, child.ExtraFiles = os.Stdout, []*os.File{fifo}
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		fmt.Fprintln(fifo, errors.Join(child.Start()), child.Process.Pid)
	case "hang":
		time.Sleep(time.Hour)
	default:
		helpers[what](args)
	}
}

// helpers are those that not every system has.
var helpers = map[string]func(args []string){}

func print(v any) { json.NewEncoder(os.Stdout).Encode(v) }

// helperConfig is the configuration of a tool that runs this binary.
func helperConfig(t testing.TB, args ...string) command.Config {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return command.Config{Name: "it", Program: program, Args: append([]string{"helper"}, args...)}
}

func shell(script string) command.Config {
	return command.Config{Name: "it", Program: "sh", Args: []string{"-c", script}, PassEnv: []string{"PATH"}}
}

// writing grants a file or directory.
func writing(c command.Config, path string) command.Config {
	c.Write = []string{path}
	return c
}

func newTool(t testing.TB, c command.Config) *command.Tool {
	t.Helper()
	it, err := command.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return it
}

var params = testkit.Params

func runTool(t testing.TB, it *command.Tool, values map[string]any) tool.Output {
	t.Helper()
	out, err := it.Run(t.Context(), params(t, values))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// list runs the tool and reads the list of strings that the helper prints.
func list(t testing.TB, it *command.Tool, values map[string]any) []string {
	t.Helper()
	var list []string
	out := runTool(t, it, values)
	if err := json.Unmarshal(out.Data, &list); err != nil {
		t.Fatalf("output %q: %v", out.Data, err)
	}
	return list
}

func guard(t testing.TB, it *command.Tool, o tool.Options, c tool.GuardConfig) *tool.Guard {
	t.Helper()
	c.Tools, c.Allowlist, c.Logger = tool.NewRegistry(), []string{it.Name()}, slog.New(slog.DiscardHandler)
	if err := c.Tools.Register(it, o); err != nil {
		t.Fatal(err)
	}
	g, err := tool.NewGuard(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wantInvalid(t *testing.T, err error, text string) {
	t.Helper()
	if !errors.Is(err, tool.ErrInvalidParams) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v; want one about invalid params that has %q", err, text)
	}
}

func TestParamStaysOneArgument(t *testing.T) {
	it := newTool(t, helperConfig(t, "args", "--name={v}", "pre/{v}.txt", "{{v}}", "--", "{v}", "{v}{v}"))
	for _, v := range []string{
		"", "x", "-rf", "--help", "--", "a b", "$(x)", "`x`", "a\nb", "'", `"`, `\`, "a;b", "a|b", "&", ">x", "*", "~",
		"$HOME", "%s", "{v}", "{{", "\t", "\x1b[2J", "ü☃", "--name=y", "@file", "+1", strings.Repeat("x", 60_000),
	} {
		got := list(t, it, map[string]any{"v": v})
		if want := []string{"--name=" + v, "pre/" + v + ".txt", "{v}", "--", v, v + v}; !slices.Equal(got, want) {
			t.Errorf("%.50q: arguments\n%.300q; want\n%.300q", v, got, want)
		}
	}
}

func TestParamsAreStringsNumbersAndBooleans(t *testing.T) {
	it := newTool(t, helperConfig(t, "args", "--", "{a}", "{b}", "{c}", "{d}"))
	out, err := it.Run(t.Context(), json.RawMessage(" {\"a\" : -1.50e3 ,\"b\":12345678901234567890123, \"c\":\ttrue\n,\"d\":\"\\u0041\"} "))
	if want := `["--","-1.50e3","12345678901234567890123","true","A"]`; err != nil || string(out.Data) != want {
		t.Errorf("output %s, error %v; want %s", out.Data, err, want)
	}
}

func TestParamsThatDoNotFitAreRefusedByName(t *testing.T) {
	it := newTool(t, helperConfig(t, "args", "--", "{a}", "{b}"))
	for params, want := range map[string]string{
		``:                                      `param "a" is missing`,
		`{"a":1}`:                               `param "b" is missing`,
		`{"a":1,"b":2,"c":3}`:                   `unknown param "c"`,
		`{"a":1,"B":2}`:                         `unknown param "B"`,
		`{"a":null,"b":1}`:                      `param "a" is neither`,
		`{"a":1,"b":[]}`:                        `param "b" is neither`,
		`{"a":1,"b":{}}`:                        `param "b" is neither`,
		`{"a":1,"b":"hunter2\u0000"}`:           `param "b" holds a NUL`,
		`[]`:                                    `not a JSON object`,
		`null`:                                  `not a JSON object`,
		`{"a":1,`:                               `not a JSON object`,
		`{"` + strings.Repeat("x", 9999) + `":`: `not a JSON object`,
	} {
		_, err := it.Run(t.Context(), json.RawMessage(params))
		wantInvalid(t, err, want)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds a value: %v", err)
		}
	}
	_, err := it.Run(t.Context(), json.RawMessage(`{"`+strings.Repeat("x", 9999)+`":1}`))
	if wantInvalid(t, err, "unknown param"); len(err.Error()) > 200 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
	_, err = it.Run(t.Context(), params(t, map[string]any{"a": strings.Repeat("x", 1<<20), "b": 1}))
	wantInvalid(t, err, "too long")
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*command.Config)
		want   []string // of the error: the field, and the remedy
	}{
		"no name":              {func(c *command.Config) { c.Name = "" }, []string{"Name is required"}},
		"no program":           {func(c *command.Config) { c.Program = "" }, []string{"Program is required"}},
		"missing program":      {func(c *command.Config) { c.Program = "no-such-program" }, []string{`Program "no-such-program"`, "install it"}},
		"program not runnable": {func(c *command.Config) { c.Program = file }, []string{"Program", "permission denied"}},
		"bare param":           {func(c *command.Config) { c.Args = []string{"-l", "{x}"} }, []string{`Args[1] "{x}"`, `"--"`, "--name={x}"}},
		"param at the start":   {func(c *command.Config) { c.Args = []string{"{x}.txt"} }, []string{`Args[0]`, `"--"`}},
		"param before dashes":  {func(c *command.Config) { c.Args = []string{"{x}", "--"} }, []string{`Args[0]`}},
		"dashes in an option":  {func(c *command.Config) { c.Args = []string{"--=", "{x}"} }, []string{`Args[1]`}},
		"escaped dashes":       {func(c *command.Config) { c.Args = []string{"--{{", "{x}"} }, []string{`Args[1]`}},
		"param as dashes":      {func(c *command.Config) { c.Args = []string{"p{d}", "{x}"} }, []string{`Args[1]`}},
		"short option":         {func(c *command.Config) { c.Args = []string{"-n{x}"} }, []string{`Args[0]`, "--name={x}"}},
		"name of an option":    {func(c *command.Config) { c.Args = []string{"--{x}=1"} }, []string{`Args[0]`}},
		"dash":                 {func(c *command.Config) { c.Args = []string{"-{x}"} }, []string{`Args[0]`}},
		"open brace":           {func(c *command.Config) { c.Args = []string{"a{"} }, []string{`Args[0]`, "{{"}},
		"close brace":          {func(c *command.Config) { c.Args = []string{"a}"} }, []string{`Args[0]`, "}}"}},
		"no param name":        {func(c *command.Config) { c.Args = []string{"a{}"} }, []string{`Args[0]`}},
		"bad param name":       {func(c *command.Config) { c.Args = []string{"a{b c}"} }, []string{`Args[0]`}},
		"NUL":                  {func(c *command.Config) { c.Args = []string{"a\x00"} }, []string{`Args[0]`, "NUL"}},
		"shell code":           {func(c *command.Config) { c.Program, c.Args = "sh", []string{"-c", "echo {x}"} }, []string{`Args[1]`, "shell", `"$1"`}},
		"two inputs":           {func(c *command.Config) { c.Stdin, c.StdinFile = "a", "b" }, []string{"Stdin and StdinFile"}},
		"input template":       {func(c *command.Config) { c.Stdin = "{" }, []string{"Stdin"}},
		"input file template":  {func(c *command.Config) { c.StdinFile = "{" }, []string{"StdinFile"}},
		"unconfined input":     {func(c *command.Config) { c.StdinFile = "{x}" }, []string{"StdinFile", "Paths"}},
		"input below a prefix": {func(c *command.Config) { c.StdinFile, c.Paths = "d/{x}", map[string]string{"x": dir} }, []string{"StdinFile", "{x} alone"}},
		"unused path":          {func(c *command.Config) { c.Paths = map[string]string{"x": dir} }, []string{"Paths", "{x}"}},
		"path and more":        {func(c *command.Config) { c.Args, c.Paths = []string{"--", "{x}.txt"}, map[string]string{"x": dir} }, []string{"Args[1]", "{x}"}},
		"path after a slash":   {func(c *command.Config) { c.Args, c.Paths = []string{"--f=/{x}"}, map[string]string{"x": dir} }, []string{"Args[0]", "{x}"}},
		"path after a param":   {func(c *command.Config) { c.Args, c.Paths = []string{"--", "{y}{x}"}, map[string]string{"x": dir} }, []string{"Args[1]", "{x}"}},
		"path without a place": {func(c *command.Config) {
			c.Args, c.Paths = []string{"--", "{x}"}, map[string]string{"x": dir + "/none"}
		}, []string{`Paths["x"]`, "no such file"}},
		"path in a file":        {func(c *command.Config) { c.Args, c.Paths = []string{"--", "{x}"}, map[string]string{"x": file} }, []string{`Paths["x"]`, "not a directory"}},
		"missing dir":           {func(c *command.Config) { c.Dir = dir + "/none" }, []string{"Dir", "no such file"}},
		"dir is a file":         {func(c *command.Config) { c.Dir = file }, []string{"Dir", "not a directory"}},
		"variable without name": {func(c *command.Config) { c.Env = map[string]string{"": "x"} }, []string{"Env"}},
		"variable with =":       {func(c *command.Config) { c.Env = map[string]string{"a=b": "x"} }, []string{"Env", `"a=b"`}},
		"passed variable":       {func(c *command.Config) { c.PassEnv = []string{"a=b"} }, []string{"PassEnv"}},
		"variable twice":        {func(c *command.Config) { c.Env, c.PassEnv = map[string]string{"A": ""}, []string{"A"} }, []string{"PassEnv", `"A"`}},
		"output":                {func(c *command.Config) { c.Output = "xml" }, []string{`Output is "xml"`, "json"}},
		"stderr":                {func(c *command.Config) { c.MaxStderr = -1 }, []string{"MaxStderr"}},
		"grant without a place": {func(c *command.Config) { c.Read = []string{dir, dir + "/none"} }, []string{"Read[1]", "no such file"}},
		"empty grant":           {func(c *command.Config) { c.Write = []string{""} }, []string{"Write[0]", `"."`}},
		"negative limit":        {func(c *command.Config) { c.Limits.OpenFiles = -1 }, []string{"Limits.OpenFiles", "default"}},
		"unsafe and limited":    {func(c *command.Config) { c.UnsafeNoSandbox, c.Limits.CPU = true, 1 }, []string{"UnsafeNoSandbox", "Limits"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := command.Config{Name: "it", Program: "cat"}
			c.change(&config)
			_, err := command.New(config)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(c.want, "command tool") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestShellScriptTakesParamsAsArguments(t *testing.T) {
	it := newTool(t, command.Config{Name: "it", Program: "sh", Args: []string{"-c", `printf '[%s]' "$@"`, "--", "{x}"}})
	if out := runTool(t, it, map[string]any{"x": `"; echo $HOME`}); string(out.Data) != `["; echo $HOME]` {
		t.Errorf("output %q", out.Data)
	}
}

func TestSchemaComesFromTheTemplates(t *testing.T) {
	c := command.Config{Name: "it", Description: "does it", Program: "cat", Stdin: "{text}",
		Args: []string{"--n={n}", "--", "{file}", "{n}"}, Paths: map[string]string{"file": t.TempDir()}}
	it := newTool(t, c)
	text, err := json.Marshal(it.InputSchema())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"object","properties":{
		"file":{"type":"string","description":"a path within the directory that the tool may use; relative paths are taken from there"},
		"n":{"type":["string","number","boolean"]},"text":{"type":["string","number","boolean"]}},
		"required":["file","n","text"],"additionalProperties":false}`
	var got, wanted any
	if json.Unmarshal(text, &got); json.Unmarshal([]byte(want), &wanted) != nil || !reflect.DeepEqual(got, wanted) {
		t.Errorf("schema %s", text)
	}
	g := guard(t, it, tool.Options{}, tool.GuardConfig{}) // the registry takes the schema by itself
	_, err = g.Run(t.Context(), "it", json.RawMessage(`{"file":1,"n":1,"text":""}`))
	wantInvalid(t, err, "/properties/file")
	if it.Description() != "does it" || newTool(t, command.Config{Name: "it", Program: "cat"}).InputSchema().Required != nil {
		t.Error("description or schema")
	}
}

func TestEnvironmentIsEmpty(t *testing.T) {
	t.Setenv("CONVERGE_TEST_SECRET", "hunter2")
	t.Setenv("CONVERGE_TEST_PASSED", "passed")
	c := helperConfig(t, "env")
	if env := list(t, newTool(t, c), nil); len(env) != 1 || !strings.HasPrefix(env[0], "TMPDIR="+os.TempDir()) {
		t.Errorf("environment %q; want a directory for temporary files and nothing else", env)
	}
	c.Env = map[string]string{"B": "{x}", "A": "1=2", "TMPDIR": "t"}
	c.PassEnv = []string{"CONVERGE_TEST_PASSED", "CONVERGE_TEST_UNSET"}
	env := list(t, newTool(t, c), nil)
	slices.Sort(env)
	if want := []string{"A=1=2", "B={x}", "CONVERGE_TEST_PASSED=passed", "TMPDIR=t"}; !slices.Equal(env, want) {
		t.Errorf("environment %q; want %q", env, want)
	}
}

func TestWorkingDirectory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	it := newTool(t, helperConfig(t, "dir"))
	first, second := list(t, it, nil), list(t, it, nil)
	if first[1] != "0" || first[0] == second[0] || filepath.Dir(first[0]) != os.TempDir() {
		t.Errorf("directories %q and %q; want empty ones, each new", first, second)
	}
	stubborn := newTool(t, helperConfig(t, "stubborn"))
	runTool(t, stubborn, nil)
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("%v is left", left)
	}

	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := helperConfig(t, "dir")
	c.Dir = "."
	it = newTool(t, c)
	t.Chdir(t.TempDir()) // the directory is that of New
	if got := list(t, it, nil); got[0] != here {
		t.Errorf("directory %q; want %q", got[0], here)
	}
}

func TestStandardInput(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("from a"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 900_000) // more than a pipe holds
	for _, c := range []struct {
		stdin, file string
		values      map[string]any
		want        string
	}{
		{"", "", nil, ""},
		{"{{{a}}}: {b}{a}", "", map[string]any{"a": "x", "b": 1}, "{x}: 1x"},
		{"{a}", "", map[string]any{"a": big}, big},
		{"", "{f}", map[string]any{"f": "a.txt"}, "from a"},
		{"", filepath.Join(dir, "a.txt"), nil, "from a"},
	} {
		config := helperConfig(t, "cat")
		config.Stdin, config.StdinFile = c.stdin, c.file
		if c.file == "{f}" {
			config.Paths = map[string]string{"f": dir}
		}
		if out := runTool(t, newTool(t, config), c.values); string(out.Data) != c.want {
			t.Errorf("%+.100v: output %.100q", c, out.Data)
		}
	}
	// A program need not read what it is given.
	config := shell("exit 0")
	config.Stdin = "{a}"
	runTool(t, newTool(t, config), map[string]any{"a": big})
}

func TestPathsStayWithinTheirDirectory(t *testing.T) {
	base := t.TempDir()
	real := filepath.Join(base, "real")
	link := filepath.Join(base, "link") // the directory may be given by a link
	for _, err := range []error{
		os.MkdirAll(filepath.Join(real, "sub"), 0o700),
		os.MkdirAll(filepath.Join(base, "real-not"), 0o700),
		os.WriteFile(filepath.Join(real, "sub", "a"), []byte("a"), 0o600),
		os.WriteFile(filepath.Join(real, "-rf"), nil, 0o600),
		os.WriteFile(filepath.Join(base, "secret"), []byte("hunter2"), 0o600),
		os.Symlink(real, link),
		os.Symlink("sub/a", filepath.Join(real, "inner")),
		os.Symlink(filepath.Join(real, "sub"), filepath.Join(real, "inner-abs")),
		os.Symlink("../secret", filepath.Join(real, "out")),
		os.Symlink("..", filepath.Join(real, "up")),
		os.Symlink("/", filepath.Join(real, "rootdir")),
		os.Symlink("nowhere", filepath.Join(real, "dangling")),
		os.Symlink("../new", filepath.Join(real, "dangling-out")),
		os.Symlink("loop", filepath.Join(real, "loop")),
		syscall.Mkfifo(filepath.Join(real, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := helperConfig(t, "args", "--f={f}", "--", "{f}")
	c.Paths = map[string]string{"f": link}
	it := newTool(t, c)
	real, err := filepath.EvalSymlinks(real)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"sub/a":                         "sub/a",
		"./sub/../sub/a":                "sub/a",
		"sub/":                          "sub",
		".":                             ".",
		"-rf":                           "-rf",
		"inner":                         "sub/a",
		"inner-abs/a":                   "sub/a",
		"new":                           "new",
		"sub/new":                       "sub/new",
		filepath.Join(real, "sub", "a"): "sub/a",
		filepath.Join(link, "sub", "a"): "sub/a",
		real:                            ".",
	} {
		want = filepath.Join(real, want)
		if got := list(t, it, map[string]any{"f": value}); !slices.Equal(got, []string{"--f=" + want, "--", want}) {
			t.Errorf("%q: arguments %q; want %q", value, got, want)
		}
	}
	outside := []string{
		"../secret", "..", "sub/../../secret", "out", "up", "up/secret", "up/real/sub/a/../../../secret", "rootdir/etc/passwd",
		"/etc/passwd", "/", base, filepath.Join(base, "secret"), real + "-not", real + "/../secret", "up/new", "",
	}
	for _, value := range outside {
		_, err := it.Run(t.Context(), params(t, map[string]any{"f": value}))
		wantInvalid(t, err, `param "f" lies outside`)
	}
	for _, value := range []string{"none/a", "dangling", "dangling-out", "loop", "sub/a/b", strings.Repeat("x", 5000)} {
		_, err := it.Run(t.Context(), params(t, map[string]any{"f": value}))
		wantInvalid(t, err, `param "f" cannot be resolved`)
		if strings.Contains(err.Error(), value) {
			t.Errorf("the error holds the value: %v", err)
		}
	}
	_, err = it.Run(t.Context(), params(t, map[string]any{"f": "a\x00"}))
	wantInvalid(t, err, `param "f" holds a NUL`)

	reading := helperConfig(t, "cat")
	reading.StdinFile, reading.Paths = "{f}", c.Paths
	it = newTool(t, reading)
	for _, value := range []string{"sub/a", "inner", "inner-abs/a"} {
		if out := runTool(t, it, map[string]any{"f": value}); string(out.Data) != "a" {
			t.Errorf("%q: read %q", value, out.Data)
		}
	}
	for _, value := range append(outside, "fifo", "sub", "new") {
		_, err := it.Run(t.Context(), params(t, map[string]any{"f": value}))
		wantInvalid(t, err, `param "f"`)
	}
}

func TestOutputModes(t *testing.T) {
	for _, c := range []struct{ mode, wrote, want, contentType string }{
		{"", `a b\n\n`, "a b\n", "text/plain"},
		{command.Text, "", "", "text/plain"},
		{command.Word, `  \n 42 file\n`, "42", "text/plain"},
		{command.JSON, ` {"a": 1}\n`, " {\"a\": 1}\n", "application/json"},
		{command.Bytes, `\000\377\n`, "\x00\xff\n", "application/octet-stream"},
	} {
		config := shell("printf '" + strings.ReplaceAll(strings.ReplaceAll(c.wrote, "{", "{{"), "}", "}}") + "'")
		config.Output = c.mode
		out := runTool(t, newTool(t, config), nil)
		if string(out.Data) != c.want || out.ContentType != c.contentType {
			t.Errorf("%s: output %q (%s)", c.mode, out.Data, out.ContentType)
		}
	}
	for mode, wrote := range map[string]string{command.Word: " ", command.JSON: "hunter2"} {
		config := shell("printf '" + wrote + "'")
		config.Output = mode
		if _, err := newTool(t, config).Run(t.Context(), nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", mode, err)
		}
	}
}

func TestExitStatus(t *testing.T) {
	config := shell("echo some; printf 0123456789 >&2; printf abcdef >&2; exit 7")
	config.MaxStderr = 8
	out, err := newTool(t, config).Run(t.Context(), nil)
	exit, ok := errors.AsType[*command.ExitError](err)
	if !ok || exit.Code != 7 || exit.Signal != nil || exit.Stderr != "89abcdef" || out.Data != nil {
		t.Errorf("output %q, error %#v", out.Data, err)
	}
	if text := err.Error(); !strings.HasSuffix(text, "exit status 7") || strings.Contains(text, "abc") {
		t.Errorf("error %q", text)
	}
	_, err = newTool(t, shell("kill -TERM $$")).Run(t.Context(), nil)
	exit, ok = errors.AsType[*command.ExitError](err)
	if !ok || exit.Code != -1 || exit.Signal != syscall.SIGTERM || !strings.Contains(err.Error(), "ended by signal: terminated") {
		t.Errorf("error %#v", err)
	}
	_, err = newTool(t, shell("head -c 1000000 /dev/zero >&2; exit 1")).Run(t.Context(), nil)
	if exit, ok = errors.AsType[*command.ExitError](err); !ok || len(exit.Stderr) != command.DefaultMaxStderr {
		t.Errorf("error %v keeps %d bytes", err, len(exit.Stderr))
	}
}

func TestProgramThatVanishedIsAnError(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	it := newTool(t, command.Config{Name: "it", Program: program})
	runTool(t, it, nil)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if _, err := it.Run(t.Context(), nil); err == nil || errors.Is(err, tool.ErrInvalidParams) {
		t.Errorf("error %v", err)
	}
}

func TestEndlessOutputIsCutOff(t *testing.T) {
	it := newTool(t, helperConfig(t, "flood"))
	_, err := it.Run(t.Context(), nil)
	if !errors.Is(err, tool.ErrOutputTooLarge) {
		t.Errorf("error %v", err)
	}
	_, err = guard(t, it, tool.Options{}, tool.GuardConfig{MaxOutput: 10}).Run(t.Context(), "it", nil)
	if toolErr, ok := errors.AsType[*tool.Error](err); !ok || toolErr.Reason != tool.ErrOutputTooLarge || !strings.Contains(err.Error(), "10 bytes") {
		t.Errorf("error %v", err)
	}
	exact := guard(t, newTool(t, shell("printf 0123456789")), tool.Options{}, tool.GuardConfig{MaxOutput: 10})
	if out, err := exact.Run(t.Context(), "it", nil); err != nil || len(out.Data) != 10 {
		t.Errorf("output %q, error %v", out.Data, err)
	}
}

func TestProgramHasASessionOfItsOwn(t *testing.T) {
	if got := list(t, newTool(t, helperConfig(t, "session")), nil); !slices.Equal(got, []string{"true", "true"}) {
		t.Errorf("leads its group, has no terminal: %q", got)
	}
}

// pipe makes a named pipe. Processes that have it open keep it from ending, so that its end proves
// their death.
func pipe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hanging is a script of two processes that hang, with the pipe open.
func hanging(pipe string) string {
	return "exec 3>" + pipe + "; sleep 1000 & printf x >&3; sleep 1000"
}

func TestWholeGroupDiesWithTheCall(t *testing.T) {
	path := pipe(t)
	it := newTool(t, writing(shell(hanging(path)), path))
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error)
	go func() {
		_, err := it.Run(ctx, nil)
		failed <- err
	}()
	processes, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer processes.Close()
	if _, err := io.ReadFull(processes, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("shutdown")
	cancel(stop)
	if err := <-failed; !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	if _, err := io.ReadAll(processes); err != nil { // ends when all are dead
		t.Error(err)
	}
}

func TestGuardTimesOutAProgram(t *testing.T) {
	g := guard(t, newTool(t, shell("sleep 1000 & sleep 1000")), tool.Options{Timeout: 20 * time.Millisecond}, tool.GuardConfig{})
	if _, err := g.Run(t.Context(), "it", nil); !errors.Is(err, tool.ErrTimeout) {
		t.Errorf("error %v", err)
	}
	if err := g.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProgramIsNotStartedForACallThatIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	_, err := newTool(t, writing(shell("> "+mark), filepath.Dir(mark))).Run(ctx, nil)
	if _, statErr := os.Stat(mark); !errors.Is(err, context.Canceled) || statErr == nil {
		t.Errorf("error %v, mark %v", err, statErr)
	}
}

func TestBackgroundProcessesDieWithTheLeader(t *testing.T) {
	path := pipe(t)
	ended := make(chan error)
	go func() {
		processes, err := os.Open(path)
		if err == nil {
			_, err = io.ReadAll(processes)
			processes.Close()
		}
		ended <- err
	}()
	out := runTool(t, newTool(t, writing(shell("exec 3>"+path+"; sleep 1000 & echo done"), path)), nil)
	if string(out.Data) != "done" {
		t.Errorf("output %q", out.Data)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestProcessThatLeavesTheGroupDoesNotHoldUpTheCall(t *testing.T) {
	path := pipe(t)
	failed := make(chan error)
	it := newTool(t, writing(helperConfig(t, "escape", path), path))
	go func() {
		_, err := it.Run(t.Context(), nil)
		failed <- err
	}()
	processes, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer processes.Close()
	var started string
	var pid int
	if _, err := fmt.Fscanln(processes, &started, &pid); err != nil || started != "<nil>" {
		t.Fatal(started, err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "holds the output open") {
		t.Errorf("error %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process that left is gone: %v", err)
	}
	if _, err := io.ReadAll(processes); err != nil {
		t.Error(err)
	}
}

func Example() {
	count, err := command.New(command.Config{
		Name:        "count_words",
		Description: "Counts the words of a text.",
		Program:     "wc",
		Args:        []string{"-w"},
		Stdin:       "{text}",
		Output:      command.Word,
	})
	if err != nil {
		panic(err)
	}
	tools := tool.NewRegistry()
	if err := tools.Register(count, tool.Options{}); err != nil { // description and schema are the tool's
		panic(err)
	}
	guard, err := tool.NewGuard(tool.GuardConfig{Tools: tools, Allowlist: []string{"count_words"}})
	if err != nil {
		panic(err)
	}
	out, err := guard.Run(context.Background(), "count_words", json.RawMessage(`{"text": "to be or not to be"}`))
	fmt.Println(string(out.Data), err)
	// Output: 6 <nil>
}
